"""The predicted time of an outer step on this CPU against the measured one, at three shapes.

    python benchmarks/plan_cpu.py

For each shape: rates are measured as by `frepo-scale plan --on cpu`, the step is predicted, and
then compiled and run on random pixels. Prediction and measurement alternate in one process, so that
other programs slow both down alike; the best of five steps counts. The goal is a ratio within 1.5.
"""

import argparse
import time

import jax
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import Mesh, single_device_mesh
from frepo_scale.plan.cpu import measured_rates, this_cpu
from frepo_scale.plan.plan import make_plan
from frepo_scale.plan.subject import Subject
from frepo_scale.regression.ridge import RidgeConfig

# side, channels, width, depth, classes, images per class, target batch
SHAPES = (
    (8, 1, 32, 2, 10, 10, 256),
    (28, 1, 32, 3, 10, 10, 256),
    (32, 3, 32, 3, 10, 50, 256),
)
_STEPS = 5


def subject(shape: tuple[int, ...]) -> Subject:
    """The paper's algorithm at a shape."""
    side, channels, width, depth, classes, ipc, batch = shape

    def build(mesh: Mesh) -> FRePo:
        return FRePo(
            Problem(
                ConvNet(num_classes=classes, width=width, depth=depth),
                DistillConfig(ipc=ipc),
                PoolConfig(size=2),
                RidgeConfig(1e-2),
                mesh,
                classes * ipc,
                batch,
            )
        )

    image = (side, side, channels)
    name = f"{side} px x {channels}, width {width}, {classes * ipc} images"
    return Subject(name, build, image, classes, (1, 0), 1, None, False, False, "memory", batch)


def real_seconds(given: Subject) -> float:
    """The best of some steps."""
    algorithm = given.build(single_device_mesh())
    rng = np.random.default_rng(0)
    size, batch = algorithm.problem.size, algorithm.batch_size
    start = DistilledSet(
        rng.normal(size=(size, *given.image_shape)).astype(np.float32),
        np.repeat(np.eye(given.num_classes, dtype=np.float32), size // given.num_classes, axis=0),
    )
    state = initial_train_state(algorithm, start)
    step = make_train_step(algorithm, state)
    images = Batch(
        rng.normal(size=(batch, *given.image_shape)).astype(np.float32),
        rng.integers(0, given.num_classes, batch).astype(np.int32),
    )
    times = []
    for _ in range(_STEPS + 1):
        began = time.perf_counter()
        state, metrics = step(state, images)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| shape | predicted ms | measured ms | ratio |\n|---|---|---|---|")
    for shape in SHAPES:
        given = subject(shape)
        hardware = this_cpu()
        rates = measured_rates(given.problem, given.image_shape)
        predicted = make_plan(given, hardware, 1, 1, rates).seconds
        real = real_seconds(given)
        print(
            f"| {given.recipe} | {1e3 * predicted:.0f} | {1e3 * real:.0f}"
            f" | {predicted / real:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
