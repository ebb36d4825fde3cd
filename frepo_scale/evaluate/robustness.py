"""The evaluation `robustness`: accuracy on attacked, noisy and blurred test images.

Nets trained on the distilled set are compared with nets trained on real images: random ones, and
all of them where `FULL_DATA` is set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.net_inputs import Constants
from frepo_scale.evaluate.attacks import (
    PGD_STEPS,
    attacked,
    blurred,
    constants_of,
    correct,
    noisy,
    pixels_of,
)
from frepo_scale.evaluate.baselines import (
    all_training_images,
    check_in_memory,
    full_data_steps,
    named_set,
    random_real_images,
    with_full_data_steps,
)
from frepo_scale.evaluate.evaluation import EvaluationContext, Labelled, Measurement, Task
from frepo_scale.evaluate.fit import TrainedNet
from frepo_scale.evaluate.protocol import Score

BOUNDS = (2, 8)  # of attacks, in 1/255: pixels are in [0, 1]
# The weakest and the strongest of Hendrycks and Dietterich 2019 for 32 px images.
NOISE = (0.04, 0.1)  # standard deviation
BLUR = (0.4, 1.0)  # standard deviation of the Gaussian, in pixels

CONDITIONS = (
    "clean",
    *(f"FGSM {bound}/255" for bound in BOUNDS),
    *(f"PGD-{PGD_STEPS} {bound}/255" for bound in BOUNDS),
    *(f"noise, std {std}" for std in NOISE),
    *(f"blur, {sigma} px" for sigma in BLUR),
)


@dataclass(frozen=True)
class _Images:
    """Test images: pixels (n, H, W, C) in [0, 1], labels (n,), two draws of the shape of pixels."""

    pixels: np.ndarray
    labels: np.ndarray
    noise: np.ndarray
    start: np.ndarray
    constants: Constants


@dataclass(frozen=True)
class Robustness:
    """Test accuracy of nets trained on each set, under each condition.

    Attributes:
      title: the heading of the table.
    """

    title: str = "test accuracy under attacks, Gaussian noise and blur"

    def check(self, task: Task) -> None:
        """Raises InputError if all training images are asked for and not in memory."""
        if task.config.full_data:
            check_in_memory(task, "FULL_DATA = True", "leave FULL_DATA out")

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """One row for each set and condition."""
        images = _images(context)

        def test(net: TrainedNet) -> Sequence[float]:
            return [float(right.mean()) for right in _under_conditions(net, images)]

        for key, what, labelled, steps in _sets(context):
            found = context.measure(key, labelled, test, steps=steps)
            for condition, values in zip(CONDITIONS, zip(*found, strict=True), strict=True):
                yield Measurement(
                    f"{key} {condition}",
                    f"{what}, {condition}",
                    Score.of(values),
                    {"row": condition, "column": what, "test_images": len(images.labels)},
                )


def _sets(context: EvaluationContext) -> Iterator[tuple[str, str, Labelled, int]]:
    """Key, name, images and Adam steps of each training set."""

    def random_images(net: int) -> DistilledSet:
        return random_real_images(context, net)

    yield "distilled", named_set(context), context.distilled, context.steps
    yield "random_real", "random real images", random_images, context.steps
    if context.config.full_data:
        steps = full_data_steps(context)
        name = with_full_data_steps(context, "full training set")
        yield "full_data", name, all_training_images(context), steps


def _images(context: EvaluationContext) -> _Images:
    """`ROBUSTNESS_IMAGES` test images, evenly spaced, and draws that are the same for all nets."""
    if context.preprocessing is None:
        raise ValueError("attacks on pixels need the preprocessing of the net inputs")
    test, most = context.real.test, context.config.robustness_images
    count = min(len(test), most or len(test))
    rows = np.arange(count) * len(test) // count
    pixels = pixels_of(test.at(rows), context.preprocessing)
    rng = np.random.default_rng(context.seed)
    noise = rng.standard_normal(pixels.shape, np.float32)
    start = rng.uniform(-1, 1, pixels.shape).astype(np.float32)
    labels = np.asarray(test.labels)[rows]
    return _Images(pixels, labels, noise, start, constants_of(context.preprocessing))


def _under_conditions(net: TrainedNet, given: _Images) -> Iterator[np.ndarray]:
    """Whether the net is right, bool (n,), in the order of `CONDITIONS`."""
    pixels, labels = given.pixels, given.labels

    def right(changed: np.ndarray) -> np.ndarray:
        return correct(net, given.constants, changed, labels)

    yield right(pixels)
    for start in (None, given.start):
        for bound in BOUNDS:
            yield right(attacked(net, given.constants, pixels, labels, bound / 255, start))
    for std in NOISE:
        yield right(noisy(pixels, given.noise, std))
    for sigma in BLUR:
        yield right(blurred(pixels, sigma))
