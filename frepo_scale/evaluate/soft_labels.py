"""The baseline of soft-labelled sets: random real images with soft labels of a teacher.

A part of what a learned label brings is knowledge of the whole training part, which any net trained
on it has too. So a distilled set with learned labels has to exceed random images with such labels,
not only random images with hard ones.

The teacher is the evaluation net, trained on all training images that are not held out. Its
outputs z approximate the training labels `(onehot - 1/K) / sqrt(K/10)`. The soft labels are
`(softmax(z sqrt(K/10) / T) - 1/K) / sqrt(K/10)`: the form of the hard ones, which they approach for
small T. T is the temperature with which one net has the best accuracy on the held-out images.

Legend: N distilled images, K classes.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.evaluate.baselines import (
    all_training_images,
    full_data_steps,
    random_real_images,
)
from frepo_scale.evaluate.evaluation import EvaluationContext
from frepo_scale.evaluate.fit import TrainedNet
from frepo_scale.evaluate.registry import file_version

_VERSION = file_version(__file__)
TEMPERATURES = (0.05, 0.1, 0.2, 0.4, 0.8)


def has_soft_labels(labels: np.ndarray) -> bool:
    """Whether labels (N, K) are more than one value for the class and one for all others."""
    ordered = np.sort(np.asarray(labels), axis=-1)
    return bool(np.ptp(ordered[:, :-1]) > 1e-6 or np.ptp(ordered[:, -1]) > 1e-6)


def soft_labels(outputs: np.ndarray, temperature: float) -> np.ndarray:
    """Labels (n, K) float32 from the outputs (n, K) of a net trained on centred scaled labels."""
    classes = outputs.shape[-1]
    scale = np.sqrt(classes / 10)
    z = np.asarray(outputs, np.float64) * (scale / temperature)
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return ((p - 1 / classes) / scale).astype(np.float32)


class SoftRandom:
    """Random real images with soft labels of a teacher, for one evaluation context.

    The teacher is trained when the first labels are needed, so not where all nets are finished,
    and once for all evaluations of an attempt at a run.
    """

    def __init__(self, context: EvaluationContext) -> None:
        """Computes nothing yet."""
        self._context = context

    @cached_property
    def _teacher(self) -> TrainedNet:
        context = self._context

        def trained() -> TrainedNet:
            # Another number than the nets it teaches: else it would share their initial weights.
            return context.train(
                "teacher",
                all_training_images(context),
                context.config.nets,
                steps=full_data_steps(context),
            )

        teacher: TrainedNet = context.kept("teacher of soft labels", trained)
        return teacher

    def with_temperature(self, temperature: float) -> Callable[[int], DistilledSet]:
        """From the number of a net to the images `random_real_images` with soft labels."""

        def labelled(net: int) -> DistilledSet:
            images = random_real_images(self._context, net).images
            return DistilledSet(images, soft_labels(self._teacher.logits(images), temperature))

        return labelled

    @cached_property
    def temperature(self) -> float:
        """The temperature of the best accuracy on the held-out images."""
        shared = self._context.shared(_VERSION)
        found = {
            temperature: shared.score(
                f"temperature {temperature} of soft labels",
                self.with_temperature(temperature),
                nets=1,
                held_out=True,
            ).mean
            for temperature in TEMPERATURES
        }
        return max(found, key=lambda temperature: found[temperature])

    def accuracies(self) -> list[tuple[float, ...]]:
        """Top-1 and top-5 test accuracy of nets trained on such images; shared by evaluations."""
        test = self._context.real.test
        return self._context.shared(_VERSION).measure(
            "random_soft", self.with_temperature(self.temperature), lambda net: net.accuracy(test)
        )
