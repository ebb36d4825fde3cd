"""Takes target batches from a prepared set in this process and saves the arrays on the mesh.

A separate program, because the number of devices is fixed when JAX starts.
Arguments: the prepared set,
where to save, a JSON list of cases; then, for several processes, coordinator address, number of
processes and own number.
"""

import json
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.feed import Feed, target_batches
from frepo_scale.data.net_inputs import replicated
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import Split, everything
from frepo_scale.distill.algorithm import Algorithm, Problem
from frepo_scale.distill.state import initial_train_state
from frepo_scale.parallel.mesh import DATA, POOL, MeshConfig, build_mesh, over
from frepo_scale.train.stepping import steps_and_batches


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
    if "together" in case:
        return together(feed, case)
    found = []
    with target_batches(feed, case["start"]) as endless:
        for _ in range(case["steps"]):
            batch = next(endless)
            for part in batch:
                assert part.sharding.is_equivalent_to(over(mesh, (POOL, DATA)), part.ndim)
            found.append(multihost_utils.process_allgather(batch, tiled=True))
    return np.stack([b.images for b in found]), np.stack([b.labels for b in found])


class Recorded(NamedTuple):
    step: jax.Array
    images: jax.Array
    labels: jax.Array


class Recorder(Algorithm):
    """Keeps the batches of its first steps."""

    def __init__(self, mesh, steps, batch):
        super().__init__(Problem(None, None, None, None, mesh, size=1, batch=batch))
        self.steps = steps

    def init(self, start):
        shape = (self.steps, self.batch_size)
        images = jnp.zeros((*shape, *start.images.shape[1:]))
        return Recorded(jnp.int32(0), images, jnp.zeros(shape, jnp.int32))

    def step(self, state, batch):
        images = state.images.at[state.step].set(batch.images)
        labels = state.labels.at[state.step].set(batch.labels)
        return Recorded(state.step + 1, images, labels), {"loss": jnp.mean(batch.images)}

    def distilled(self, state):
        raise NotImplementedError  # abstract; no feed asks for the set


def together(feed, case):
    """The batches of a case, with several steps per call."""
    steps, most = case["steps"], case["together"]
    recorder = Recorder(feed.mesh, steps, case["batch"])
    image = feed.images.at(np.zeros(1, np.int64)).shape[1:]
    start = DistilledSet(np.zeros((1, *image), np.float32), np.zeros((1, 3), np.float32))
    state = initial_train_state(recorder, start)
    with steps_and_batches(recorder, state, feed, case["start"], most) as (call, rows):
        for done in range(0, steps, most):
            length = min(most, steps - done)
            state, metrics = call(state, tuple(next(rows) for _ in range(length)))
    found = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state.algorithm)
    assert found.step == steps
    np.testing.assert_allclose(metrics["loss"], found.images[-1].mean(), rtol=1e-4, atol=1e-6)
    return found.images, found.labels


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
