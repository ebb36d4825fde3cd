"""Drawing the rows of a target batch: our whole-epoch permutation against Grain's shuffle.

    python benchmarks/batch_order.py

Both give 1024 rows of an endless shuffled sequence over 50 000 images, by random access. They are
timed alternately in one process; the ratio is what counts.
"""

import statistics
import time
from collections.abc import Callable

import grain
import numpy as np

from frepo_scale.data.pipeline import GlobalOrder

IMAGES, BATCH, BATCHES, ROUNDS = 50_000, 1024, 40, 7


def seconds(draw: Callable[[int], np.ndarray]) -> float:
    """Seconds per batch over more than one epoch."""
    began = time.perf_counter()
    for step in range(BATCHES):
        assert len(draw(step)) == BATCH
    return (time.perf_counter() - began) / BATCHES


def main() -> None:
    """Prints both times and their ratio."""
    shuffled = (
        grain.MapDataset.range(IMAGES)
        .shuffle(seed=0)
        .repeat(None)
        .batch(BATCH, drop_remainder=True, batch_fn=np.asarray)
    )
    ours, theirs = [], []
    for round_number in range(ROUNDS):
        ours.append(seconds(GlobalOrder(IMAGES, BATCH, round_number).__getitem__))
        theirs.append(seconds(shuffled.__getitem__))
    mine, grains = statistics.median(ours), statistics.median(theirs)
    print(f"Grain's shuffle, per element   {1e3 * grains:7.3f} ms per batch")
    print(f"one permutation per epoch      {1e3 * mine:7.3f} ms per batch")
    print(f"ratio                          {grains / mine:7.1f}")


if __name__ == "__main__":
    main()
