"""How much the host adds to an outer step: the loop as it runs against the bare jitted call.

    python benchmarks/step_overhead.py

A net one channel wide and a batch of 2 leave almost nothing to compute, so what remains is the
host: drawing the batch, dispatching, periodic actions. Two measures, alternately in one process:
the processor time of the loop's own thread per step (what the host does; waiting does not count,
the device's work is done by other threads), and the wall time of the loop against the bare call
with its batch already on the device.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.feed import Feed, target_batches
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.types import Split
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import DistillState, initial_state
from frepo_scale.distill.step import OuterStep, make_outer_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.metrics import JsonlWriter, MultiWriter
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig
from frepo_scale.train.loop import LoopConfig, train

STEPS = 1000
ROUNDS = 7
BATCH = 2
SIDE = 28
CLASSES = 10


class Job:
    """A job that does nothing but count steps, as a run does between its probes."""

    def __init__(self, actions: StepActions) -> None:
        """Takes the periodic actions of a run."""
        self._actions = actions

    def check(self, state: DistillState) -> None:
        """Nothing to check."""

    def probe(self, state: DistillState, step: int) -> tuple[DistillState, dict[str, float]]:
        """Nothing to probe."""
        return state, {}

    def save(self, state: DistillState, step: int, probed: int) -> None:
        """Nothing to save."""

    def after_step(self, step: int) -> None:
        """What a run does after a step."""
        self._actions.after_step(step)


def main() -> int:
    """Prints the table; the exit code is 1 if the overhead is above one millisecond."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5000, SIDE, SIDE, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 5000).astype(np.int32)
    module = ConvNet(num_classes=CLASSES, width=1, depth=3, norm="batch")
    config = DistillConfig(ipc=1, steps=10**6)
    start = DistilledSet(images[:CLASSES], np.eye(CLASSES, dtype=np.float32) - 1 / CLASSES)
    mesh, pool = single_device_mesh(), PoolConfig()
    state = initial_state(module, config, pool, start, mesh)
    step = make_outer_step(
        OuterStep(module, config, pool, RidgeConfig(), mesh, CLASSES, BATCH), state
    )
    fixed = Batch(*(jax.device_put(x) for x in (images[:BATCH], labels[:BATCH])))

    def bare() -> float:
        """Seconds per step of the jitted call alone, the batch already on the device."""
        state = initial_state(module, config, pool, start, mesh)
        state, _ = step(state, fixed)
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = step(state, fixed)
            metrics["loss"].block_until_ready()
        return (time.perf_counter() - began) / STEPS

    def looped(folder: Path) -> tuple[float, float]:
        """Wall and own-thread seconds per step of the whole loop, logging every hundredth."""
        tensorboard = TensorBoardWriter(folder)
        writer = MultiWriter([JsonlWriter(folder / "metrics.jsonl", 0), tensorboard])
        job = Job(StepActions(tensorboard, folder, 0, STEPS + 1, profile_at=0))
        state = initial_state(module, config, pool, start, mesh)
        order = GlobalOrder(len(labels), BATCH, 0)
        feed = Feed(Split(images, labels), order, "memory", None, mesh)
        jax.block_until_ready(state)
        with target_batches(feed, 0) as batches:
            began, worked = time.perf_counter(), time.thread_time()
            outcome = train(
                state,
                start=0,
                probed=0,
                steps=STEPS,
                config=LoopConfig(log_every=100, probe_every=10**9, save_every=10**9),
                step=step,
                batches=batches,
                images_per_step=BATCH,
                flops_per_step=0.0,
                ledger=Ledger(None),
                job=job,
                writer=writer,
                preemption=Preemption(),
            )
        worked = time.thread_time() - worked
        jax.block_until_ready(outcome.state)
        taken = time.perf_counter() - began
        writer.close()
        return taken / STEPS, worked / STEPS

    with tempfile.TemporaryDirectory() as folder:
        looped(Path(folder, "warm"))  # compiles, imports clu
        rounds = [(bare(), *looped(Path(folder, str(i)))) for i in range(ROUNDS)]
    alone, whole, work = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"bare jitted step, wall     {alone:7.3f} ms")
    print(f"step in the loop, wall     {whole:7.3f} ms   ({whole / alone:.2f} of the bare step)")
    print(f"host work in the loop      {work:7.3f} ms   (bar: 1 ms)")
    return 0 if max(work, whole - alone) <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
