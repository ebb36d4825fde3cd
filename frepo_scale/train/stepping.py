"""The jitted steps of a run with the batches they take."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from frepo_scale.data.feed import Feed, batch_of, hold, replicate, target_batches, target_rows
from frepo_scale.distill.algorithm import Algorithm, Metrics
from frepo_scale.distill.state import TrainState, make_train_step, make_train_steps

Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


@contextlib.contextmanager
def steps_and_batches(
    algorithm: Algorithm, state: TrainState, feed: Feed, start: int, most: int
) -> Iterator[tuple[Step, Iterator[Any]]]:
    """The function `(state, batch) -> (state, metrics)`, and its batches from step `start` on.

    With `most` of 0 a batch is a `Batch` of one step. Otherwise the iterator gives the rows of one
    step's batch, and the function takes a sequence of 1 to `most` of them.

    Args:
      algorithm: the algorithm.
      state: a state, or its shapes.
      feed: the target images; held by the devices unless `most` is 0.
      start: the first step.
      most: steps of a call, as `calls.most_steps` gives it.
    """
    if not most:
        with target_batches(feed, start) as batches:
            yield make_train_step(algorithm, state), batches
        return
    with target_rows(feed, start) as rows:
        yield _together(algorithm, state, feed, most), rows


def _together(algorithm: Algorithm, state: TrainState, feed: Feed, most: int) -> Step:
    """Several steps as one call, on the uploaded target part."""
    mesh, held = feed.mesh, hold(feed)
    steps = make_train_steps(algorithm, state, partial(batch_of, mesh))

    def call(state: TrainState, rows: Sequence[np.ndarray]) -> tuple[TrainState, Metrics]:
        # A new array for each call: the transfer may still read the one of the call before.
        padded = np.zeros((most, *rows[0].shape), np.int32)
        padded[: len(rows)] = rows
        return steps(state, held, *replicate(mesh, (padded, np.int32(len(rows)))))

    return call
