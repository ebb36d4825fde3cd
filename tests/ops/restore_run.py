"""One of two processes that restore a checkpoint which one of them cannot read.

Arguments: a folder for the checkpoints.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frepo_scale.ops.checkpoint import Checkpointer
from frepo_scale.parallel import ending, runtime


def main():
    runtime.initialize()
    spread = NamedSharding(Mesh(jax.devices(), ("all",)), PartitionSpec("all"))
    make = jax.jit(lambda x: x + jnp.arange(8.0), out_shardings=spread)
    checkpointer = Checkpointer(Path(sys.argv[1]))
    for step in (10, 20):
        checkpointer.save(step, {"x": make(step)}, {"saved": step})
        checkpointer.wait()
    if not runtime.is_first():
        read = ocp.StandardCheckpointHandler.restore

        def restore(self, directory, *args, **kwargs):
            if directory.parent.name == "20":
                raise ValueError("a bad block")
            return read(self, directory, *args, **kwargs)

        ocp.StandardCheckpointHandler.restore = restore
    found = checkpointer.restore({"x": make(0)})
    mine = [float(shard.data[0]) for shard in found.state["x"].addressable_shards]
    print("FOUND", found.step, found.meta, mine, *found.damaged, flush=True)
    runtime.barrier("read")
    return 0


ending.run_and_leave(main)
