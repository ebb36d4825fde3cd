"""One of two processes that saves a checkpoint and is signalled before its next poll.

Argument: a folder for the checkpoints, in which the file "signalled" appears after the signal.
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
    folder, preemption = Path(sys.argv[1]), Preemption()
    preemption.install()
    for _ in range(3):
        assert not preemption.requested
    checkpointer = Checkpointer(folder / "checkpoints")
    everywhere = NamedSharding(Mesh(jax.devices(), ("all",)), PartitionSpec())
    state = {"x": jax.jit(lambda: jnp.zeros(3), out_shardings=everywhere)()}
    checkpointer.save(1000, state, {})  # far from the number of any poll
    checkpointer.wait()
    runtime.barrier("ready")
    print("READY", flush=True)
    while not (folder / "signalled").exists():
        time.sleep(0.02)
    time.sleep(2)  # JAX notifies the processes of the signal meanwhile
    for poll in range(300):
        if preemption.requested:
            print("STOPPED", poll, flush=True)
            runtime.barrier("stopped")
            return preemption.exit_code
        time.sleep(0.1)
    print("the signal was lost", flush=True)
    return 1


ending.run_and_leave(main)
