"""How much the host adds to an outer step: the loop as it runs against the bare jitted call.

    python benchmarks/step_overhead.py

A net one channel wide and a batch of 2 leave almost nothing to compute, so what remains is the
host: drawing the batch, dispatching, periodic actions. Two measures, alternately in one process:
the processor time of the loop's own thread per step (what the host does; waiting does not count,
the device's work is done by other threads), and the wall time of the loop against the bare call
with its batch already on the device. The last lines are the same loop with several steps per call
(STEPS_PER_CALL): its host work, also relative to one step per call. Its wall time says little,
since gradients of convolutions are slow inside loops on CPUs.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.feed import Feed
from frepo_scale.data.net_inputs import replicated
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.types import Split
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.metrics import JsonlWriter, MultiWriter
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig
from frepo_scale.train.calls import calls_of
from frepo_scale.train.config import LoopConfig
from frepo_scale.train.hooks import Log, Probe, Save
from frepo_scale.train.loop import Hooks, train
from frepo_scale.train.stepping import steps_and_batches

STEPS = 1000
ROUNDS = 3
TOGETHER = 50  # steps per call
BATCH = 2
SIDE = 28
CLASSES = 10


def main() -> int:
    """Prints the table; the exit code is 1 if the overhead is above one millisecond."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(5000, SIDE, SIDE, 1)).astype(np.float32)
    pixels = rng.integers(0, 256, images.shape).astype(np.uint8)
    one = np.ones(1, np.float32)
    labels = rng.integers(0, CLASSES, 5000).astype(np.int32)
    module = ConvNet(num_classes=CLASSES, width=1, depth=3, norm="batch")
    config = DistillConfig(ipc=1, steps=10**6)
    start = DistilledSet(images[:CLASSES], np.eye(CLASSES, dtype=np.float32) - 1 / CLASSES)
    mesh, pool = single_device_mesh(), PoolConfig()
    frepo = FRePo(Problem(module, config, pool, RidgeConfig(), mesh, CLASSES, BATCH))
    constants = replicated(Preprocessing(one, one, None), mesh)
    order = GlobalOrder(len(labels), BATCH, 0)
    feeds = {
        0: Feed(Split(images, labels), order, "memory", None, mesh),
        TOGETHER: Feed(Split(pixels, labels), order, "device", constants, mesh),
    }
    step = make_train_step(frepo, initial_train_state(frepo, start))
    fixed = Batch(*(jax.device_put(x) for x in (images[:BATCH], labels[:BATCH])))

    def bare() -> float:
        """Seconds per step of the jitted call alone, the batch already on the device."""
        state = initial_train_state(frepo, start)
        state, _ = step(state, fixed)
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = step(state, fixed)
            metrics["loss"].block_until_ready()
        return (time.perf_counter() - began) / STEPS

    def looped(folder: Path, most: int) -> tuple[float, float]:
        """Wall and own-thread seconds per step of the whole loop, logging every hundredth.

        The first calls are left out: they compile.
        """
        tensorboard = TensorBoardWriter(folder)
        writer = MultiWriter([JsonlWriter(folder / "metrics.jsonl", 0), tensorboard])
        actions = StepActions(tensorboard, folder, folder / "profile_now", 0, 2 * STEPS + 1, 0)
        ledger = Ledger(None)
        state = initial_train_state(frepo, start)
        jax.block_until_ready(state)
        with (
            steps_and_batches(frepo, state, feeds[most], 0, most) as (call, batches),
            Progress("loop", 2 * STEPS) as progress,
        ):
            log = Log(
                100,
                writer,
                progress,
                ledger,
                steps=2 * STEPS,
                images_per_step=BATCH,
                flops_per_step=0.0,
                shown=frepo.progress,
            )
            # Hooks as in a run between its probes.
            hooks = Hooks(
                log,
                lambda state: None,
                Probe(10**9, lambda state, _: (state, {}), step=0),
                Save(10**9, 10.0, lambda *_: None, start=0, clock_every=100),
                (actions.after_step,),
            )
            calls = calls_of(LoopConfig(profile_at=0), most, 0, 2 * STEPS)

            def run(state: Any, first: int) -> tuple[Any, float, float]:
                began, worked = time.perf_counter(), time.thread_time()
                state = train(
                    state,
                    call,
                    batches,
                    hooks,
                    calls,
                    start=first,
                    steps=first + STEPS,
                    preemption=Preemption(),
                    ledger=ledger,
                ).state
                worked = time.thread_time() - worked
                jax.block_until_ready(state)
                return state, (time.perf_counter() - began) / STEPS, worked / STEPS

            state, _, _ = run(state, 0)
            _, taken, worked = run(state, STEPS)
        writer.close()
        return taken, worked

    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            (
                bare(),
                *looped(Path(folder, f"one-{i}"), 0),
                *looped(Path(folder, f"together-{i}"), TOGETHER),
            )
            for i in range(ROUNDS)
        ]
    alone, whole, work, whole_together, together = (
        1e3 * statistics.median(times) for times in zip(*rounds, strict=True)
    )
    print(f"bare jitted step, wall     {alone:7.3f} ms")
    print(f"step in the loop, wall     {whole:7.3f} ms   ({whole / alone:.2f} of the bare step)")
    print(f"host work in the loop      {work:7.3f} ms   (bar: 1 ms)")
    print(f"{TOGETHER} steps per call:")
    print(f"step in the loop, wall     {whole_together:7.3f} ms")
    print(
        f"host work in the loop      {together:7.3f} ms   ({together / work:.2f} of one per call)"
    )
    return 0 if max(work, whole - alone) <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
