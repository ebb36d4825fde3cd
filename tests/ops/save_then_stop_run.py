"""One of two processes that saves a checkpoint and is signalled before it looks again.

Arguments: a folder for the checkpoints.
"""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from frepo_scale.ops.checkpoint import Checkpointer
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel import ending, runtime


def main():
    runtime.initialize()
    preemption = Preemption()
    preemption.install()
    for _ in range(3):
        assert not preemption.requested
    checkpointer = Checkpointer(Path(sys.argv[1]))
    everywhere = NamedSharding(Mesh(jax.devices(), ("all",)), PartitionSpec())
    state = {"x": jax.jit(lambda: jnp.zeros(3), out_shardings=everywhere)()}
    checkpointer.save(1000, state, {})  # far from the number of any look
    checkpointer.wait()
    runtime.barrier("ready")
    print("READY", flush=True)
    time.sleep(3)
    for look in range(20):
        if preemption.requested:
            print("STOPPED", look, flush=True)
            runtime.barrier("stopped")
            return preemption.exit_code
        time.sleep(0.1)
    print("the signal was lost", flush=True)
    return 1


ending.run_and_leave(main)
