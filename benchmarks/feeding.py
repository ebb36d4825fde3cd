"""What feeding costs: waiting with a fake step, memory over many batches, whitening.

    python benchmarks/feeding.py PREPARED [--batches 100000] [--parts wait memory whiten]

Waiting: the training loop with steps that only sleep, batch 1024; the share of the time spent
waiting for batches. Images of PREPARED as they are transferred in each placement: uint8 from
memory, from records or gathered on the device, and float32 from memory, as for whitened sets; the
same in the size of CIFAR; and the quarter of each batch that one of four processes reads. Pixels
are not converted to net inputs: on a CPU that would take the time of the step itself.

Memory: resident memory of the process after a tenth of the batches and after all of them, reading
32 records each. It may grow by one hundredth. The orders of three epochs are computed at the start:
that many are stored, and a large set would reach its third epoch late.

Whitening: seconds for the product with the (12 288, 12 288) matrix against those of the target
batch through the paper's net (width 128, depth 4), which every step computes beside two passes over
the synthetic images; images of 64 px, in turn, the best of the rounds.

After each figure with a required value (bar) the output says whether it is met.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.data.feed import Feed, target_batches
from frepo_scale.data.net_inputs import Constants, replicated, to_net_inputs
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.types import Rows, Split, everything
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.train.calls import calls_of
from frepo_scale.train.config import LoopConfig
from frepo_scale.train.hooks import Log
from frepo_scale.train.loop import Hooks, train

BATCH = 1024
STEPS = 400
PROCESSES = 4
LARGEST_SHARE = 0.05  # of the time may be spent waiting at steps of 5 ms
EPOCHS_KEPT = 3  # by `GlobalOrder`
LARGEST_GROWTH = 0.01  # of the memory resident after a tenth of the batches
STEP_MS = (5, 10, 25, 50, 100)
ROUNDS = 3
IMAGES = 64  # of the whitening comparison: the ratio does not depend on it, the wait does


def judged(figure: float, below: float) -> str:
    """Whether a figure is below its required value, as text."""
    return f"(bar {below:g}: {'met' if figure < below else 'missed'})"


class PartOrder(GlobalOrder):
    """The rows that the first of `PROCESSES` processes reads of every global batch."""

    def __getitem__(self, step: int) -> np.ndarray:
        """(B / PROCESSES,) int64."""
        return super().__getitem__(step)[: BATCH // PROCESSES]


class RowsKept:
    """A metrics writer that stores the rows in a list."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Stores a row."""
        self.rows.append(dict(scalars))

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is open."""


def waiting(feed: Feed, seconds: float) -> float:
    """Share of the time spent waiting, median over the later rows."""
    done = jnp.float32(0)
    steps = max(40, min(STEPS, int(4 / seconds)))

    def step(state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        time.sleep(seconds)
        return state, {"loss": done}

    writer, ledger = RowsKept(), Ledger(None)
    with target_batches(feed, 0) as batches, Progress("feed", steps) as progress:
        log = Log(
            steps // 4,
            writer,
            progress,
            ledger,
            steps=steps,
            images_per_step=BATCH,
            flops_per_step=0.0,
            shown=(),
        )
        train(
            0,
            step,
            batches,
            Hooks(log, check=lambda state: None),
            calls_of(LoopConfig(), 0, 0, steps),
            start=0,
            steps=steps,
            preemption=Preemption(),
            ledger=ledger,
        )
    later = [row for row in writer.rows if "loss" in row][1:]
    return float(np.median([row["input_wait_fraction"] for row in later]))


def wait_table(found: PreparedSet) -> None:
    """One line for each placement and size."""
    mesh, records = single_device_mesh(), found.train
    order, quarter = (kind(len(records), BATCH, 0) for kind in (GlobalOrder, PartOrder))
    pixels = Split(everything(records), records.labels)
    small = Split(np.ascontiguousarray(pixels.images[:, :32, :32]), records.labels)
    floats = [Split(part.images.astype(np.float32), records.labels) for part in (pixels, small)]
    cases: dict[str, tuple[str, Rows, GlobalOrder]] = {
        "64 px, records": ("stream", records, order),
        "64 px, records, one of four processes": ("stream", records, quarter),
        "64 px, memory": ("memory", pixels, order),
        "64 px, memory, float32": ("memory", floats[0], order),
        "64 px, memory, float32, one of four": ("memory", floats[0], quarter),
        "64 px, device": ("device", pixels, order),
        "32 px, memory": ("memory", small, order),
        "32 px, memory, float32": ("memory", floats[1], order),
        "32 px, device": ("device", small, order),
    }
    print(f"batch {BATCH}; input_wait_fraction with steps of {STEP_MS} ms")
    for name, (placement, images, rows) in cases.items():
        feed = Feed(images, rows, placement, None, mesh)
        shares = [waiting(feed, ms / 1e3) for ms in STEP_MS]
        row = "  ".join(f"{share:.3f}" for share in shares)
        print(f"  {name:37} {row}  at 5 ms {judged(shares[0], LARGEST_SHARE)}", flush=True)


def resident_bytes() -> int:
    """Of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def memory_table(found: PreparedSet, batches: int) -> None:
    """Resident memory on the way."""
    mesh = single_device_mesh()
    constants = replicated(found.preprocessing(whiten=False), mesh)
    order = GlobalOrder(len(found.train), 32, 0)
    for epoch in range(EPOCHS_KEPT):
        order[epoch * len(found.train) // 32]
    seen: list[int] = []
    with target_batches(Feed(found.train, order, "stream", constants, mesh), 0) as feed:
        for number in range(1, batches + 1):
            jax.block_until_ready(next(feed))
            if number % max(batches // 10, 1) == 0:
                seen.append(resident_bytes())
                print(f"  {number:>8} batches  {seen[-1] / 2**20:.0f} MiB", flush=True)
    growth = seen[-1] / seen[0] - 1
    print(f"  growth after the first tenth: {growth:.3f} {judged(growth, LARGEST_GROWTH)}")


def best(function: Callable[[], Any]) -> float:
    """Seconds of the fastest of the rounds, after one that compiles."""
    jax.block_until_ready(function())
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times)


def whitening_table() -> None:
    """Seconds of both, and their ratio."""
    dim = 64 * 64 * 3
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 256, (IMAGES, 64, 64, 3), np.uint8))
    half = jnp.full(3, 0.5)
    matrix = jnp.asarray(rng.normal(size=(dim, dim)).astype(np.float32))
    plain = Constants(half, half, None, None)
    full = Constants(half, half, jnp.zeros(dim), matrix)
    module = ConvNet(num_classes=1000, width=128, depth=4, norm="batch")
    make = jax.jit(to_net_inputs)
    inputs = make(plain, pixels)
    variables = module.init(jax.random.key(0), inputs[:1], train=False)
    forward = jax.jit(partial(module.apply, train=False))
    product = best(lambda: make(full, pixels)) - best(lambda: make(plain, pixels))
    net = best(lambda: forward(variables, inputs))
    print(f"{IMAGES} images: whitening {product:.2f} s, forward pass {net:.2f} s")
    print(f"  whitening / forward pass of the target batch: {product / net:.2f}")


def main() -> None:
    """Prints the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prepared")
    parser.add_argument("--batches", type=int, default=100_000)
    parser.add_argument("--parts", nargs="+", default=["wait", "memory", "whiten"])
    given = parser.parse_args()
    found = PreparedSet.open(given.prepared)
    if "wait" in given.parts:
        wait_table(found)
    if "memory" in given.parts:
        memory_table(found, given.batches)
    if "whiten" in given.parts:
        whitening_table()


if __name__ == "__main__":
    main()
