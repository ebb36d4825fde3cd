"""What a checkpoint of a large run costs: how long the loop is blocked, and the work behind it.

    python benchmarks/saving.py [RECIPE] [--saves 4] [--folder FOLDER]

A state with the shapes of RECIPE (imagenet1k_ipc2 unless given), filled with numbers, is saved
several times by the run's own `Checkpointer`. Blocked: inside `save`. Behind it the digests are
computed on the devices and the arrays are written. The share is that of one save in 500 steps of
100 ms; the first save also opens things and is left out.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from frepo_scale import config
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.sources import spec_for
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.state import checkpoint_tree, train_state_shapes
from frepo_scale.jobs.run import problem_of
from frepo_scale.ops.checkpoint import Checkpointer
from frepo_scale.parallel.mesh import single_device_mesh

INTERVAL = 500 * 0.1  # seconds


def main() -> None:
    """Prints one line for each save, and the median."""
    parser = argparse.ArgumentParser(description="What a checkpoint costs.")
    parser.add_argument("recipe", nargs="?", default="imagenet1k_ipc2.gin")
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    run = config.load_recipe(config.find_recipe(given.recipe), {}).config
    spec = spec_for(run.data.name)
    if spec.num_classes is None or spec.resolution is None or spec.channels is None:
        raise SystemExit("a published data set, please")
    image = (spec.resolution, spec.resolution, spec.channels)
    problem = problem_of(run, single_device_mesh(), spec.num_classes, image)
    frepo, size = FRePo(problem), problem.size
    start = DistilledSet(
        jax.ShapeDtypeStruct((size, *image), jnp.float32),
        jax.ShapeDtypeStruct((size, spec.num_classes), jnp.float32),
    )
    shapes = checkpoint_tree(frepo, train_state_shapes(frepo, start))

    def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return (jnp.arange(math.prod(leaf.shape)) % 997).astype(leaf.dtype).reshape(leaf.shape)

    state = jax.block_until_ready(jax.tree.map(filled, shapes))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(f"{given.recipe}: {total / 1e9:.2f} GB of state")
    folder = tempfile.mkdtemp(dir=given.folder, prefix="saving-")
    checkpointer = Checkpointer(Path(folder))
    blocked = []
    for number in range(1, given.saves + 1):
        began = time.perf_counter()
        checkpointer.save(number, state, {})
        blocked.append(time.perf_counter() - began)
        checkpointer.wait()
        whole = time.perf_counter() - began
        print(f"  save {number}: blocked {blocked[-1]:.2f} s, committed after {whole:.1f} s")
    checkpointer.close()
    usual = statistics.median(blocked[1:])
    print(f"median {usual:.2f} s: {100 * usual / INTERVAL:.2f} % of {INTERVAL:.0f} s")


if __name__ == "__main__":
    main()
