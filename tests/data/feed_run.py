"""Takes target batches from a prepared set in this process and saves the arrays on the mesh.

A separate program, because the number of devices is fixed when JAX starts.
Arguments: the prepared set,
where to save, a JSON list of cases; then, for several processes, coordinator address, number of
processes and own number.
"""

import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.feed import Feed, target_batches
from frepo_scale.data.net_inputs import replicated
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import Split, everything
from frepo_scale.parallel.mesh import DATA, POOL, MeshConfig, build_mesh, over


def batches(case, folder):
    """Images (steps, G, H, W, C) and labels (steps, G) of a case, whole on every process."""
    data = load_dataset(DataConfig("npz", folder, batch=8, placement=case["placement"]))
    mesh = build_mesh(MeshConfig(*case["mesh"]))
    preprocessing = data.fit_preprocessing()
    order = GlobalOrder(len(data.train), case["batch"], seed=5)
    if data.placement == "memory":
        inputs = Split(preprocessing.apply(everything(data.train)), data.train.labels)
        feed = Feed(inputs, order, "memory", None, mesh)
    else:
        constants = replicated(preprocessing, mesh)
        workers = case.get("workers", 0)
        feed = Feed(data.train, order, data.placement, constants, mesh, workers)
    found = []
    with target_batches(feed, case["start"]) as endless:
        for _ in range(case["steps"]):
            batch = next(endless)
            for part in batch:
                assert part.sharding.is_equivalent_to(over(mesh, (POOL, DATA)), part.ndim)
            found.append(multihost_utils.process_allgather(batch, tiled=True))
    return np.stack([b.images for b in found]), np.stack([b.labels for b in found])


def main():
    folder, out, cases, *distributed = sys.argv[1:]
    if distributed:
        address, processes, number = distributed
        jax.distributed.initialize(address, int(processes), int(number))
    for number, case in enumerate(json.loads(cases)):
        images, labels = batches(case, folder)
        if jax.process_index() == 0:
            np.savez(f"{out}-{number}.npz", images=images, labels=labels)


if __name__ == "__main__":
    main()
