"""The evaluation `scores`: the label-robust and the augmentation-robust score of DD-Ranking.

Source: Li et al. 2025, "DD-Ranking: Rethinking the Evaluation of Dataset Distillation". With
accuracies as fractions,

  HLR = acc(all training images, hard labels) - acc(set, hard labels)
  IOR = acc(set) - acc(random images)
  LRS = M((IOR - HLR) / 2)
  ARS = M(((set - random | augmented) + (set - random | not augmented)) / 2)
  M(a) = (e^a - e^-1) / (e - e^-1), which maps [-1, 1] to [0, 1]

The random images are labelled in the way of the set: for a set with soft labels by a teacher
(`soft_labels`), else with hard labels. The published tool gives percentages to the formula, where
the map is no longer between 0 and 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import NO_AUGMENTATION, AugmentConfig
from frepo_scale.evaluate.baselines import (
    all_training_images,
    check_held_out,
    check_in_memory,
    full_data_steps,
    has_hard_labels,
    random_real_images,
    shared_accuracies,
    with_full_data_steps,
    with_hard_labels,
)
from frepo_scale.evaluate.evaluation import EvaluationContext, Labelled, Measurement, Task
from frepo_scale.evaluate.protocol import Score
from frepo_scale.evaluate.soft_labels import SoftRandom, has_soft_labels


class Accuracies(NamedTuple):
    """Top-1 test accuracies as fractions: of one net each, or means over nets.

    Attributes:
      real_hard: all training images with hard labels.
      set_hard: the distilled images with hard labels.
      set: the distilled set.
      random: random real images, labelled in the way of the set.
      set_plain: the distilled set without augmentation.
      random_plain: `random` without augmentation.
    """

    real_hard: float
    set_hard: float
    set: float
    random: float
    set_plain: float
    random_plain: float


def hard_label_recovery(found: Accuracies) -> float:
    """HLR: what is lost against all training images, with hard labels; lower is better."""
    return found.real_hard - found.set_hard


def improvement_over_random(found: Accuracies) -> float:
    """IOR: what is gained against random images; higher is better."""
    return found.set - found.random


def label_robust_score(found: Accuracies) -> float:
    """LRS in [0, 1]; higher is better."""
    return _mapped((improvement_over_random(found) - hard_label_recovery(found)) / 2)


def augmentation_robust_score(found: Accuracies) -> float:
    """ARS in [0, 1]; higher is better."""
    plain = found.set_plain - found.random_plain
    return _mapped((improvement_over_random(found) + plain) / 2)


def _mapped(a: float) -> float:
    return (math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1))


_DERIVED = (
    ("lrs", "label-robust score (LRS)", label_robust_score, ""),
    ("ars", "augmentation-robust score (ARS)", augmentation_robust_score, ""),
    ("hlr", "hard label recovery (HLR), lower is better: a - b", hard_label_recovery, "%"),
    ("ior", "improvement over random (IOR): c - d", improvement_over_random, "%"),
)
# Of the fields of `Accuracies`.
_LABELS = (
    "a: accuracy, all training images, hard labels",
    "b: accuracy, distilled images, hard labels",
    "c: accuracy, distilled set",
    "d: accuracy, random real images",
    "e: accuracy, distilled set, no augmentation",
    "f: accuracy, random real images, no augmentation",
)
_BOTH = "b = c: accuracy, distilled set, hard labels"  # of a set that has hard labels


@dataclass(frozen=True)
class Scores:
    """LRS, ARS, and the accuracies they are made of.

    Attributes:
      title: the heading of the table.
    """

    title: str = "label- and augmentation-robust scores"

    def check(self, task: Task) -> None:
        """Raises InputError if training images are needed that are not in memory or not there."""
        advice = "leave 'scores' out of EVALUATIONS"
        check_in_memory(task, "scores", advice)
        check_held_out(task, "scores", advice)

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """Scores of mean accuracies; their standard deviation is over the numbers of nets."""
        found = self._accuracies(context)
        nets = [Accuracies(*values) for values in zip(*found, strict=True)]
        mean = Accuracies(*(float(np.mean(values)) for values in found))
        for key, label, formula, unit in _DERIVED:
            std = float(np.std([formula(net) for net in nets]))
            score = Score(formula(mean), std, len(nets))
            facts = {"unit": unit} | ({"lower_is_better": True} if key == "hlr" else {})
            yield Measurement(key, label, score, facts)
        soft = has_soft_labels(context.distilled.labels)
        hard = has_hard_labels(context)
        for key, what, values in zip(Accuracies._fields, _LABELS, found, strict=True):
            if hard and key == "set_hard":
                continue
            if hard and key == "set":
                what = _BOTH
            kind = ", soft labels of a teacher" if soft and key.startswith("random") else ""
            if key == "real_hard":
                what = with_full_data_steps(context, what)
            yield Measurement(key, f"{what}{kind}", Score.of(values))

    def _accuracies(self, context: EvaluationContext) -> list[list[float]]:
        """For each field of `Accuracies` those of all nets."""

        def random_images(net: int) -> DistilledSet:
            return random_real_images(context, net)

        def top1(key: str, labelled: Labelled, augment: AugmentConfig | None = None) -> list[float]:
            if augment is None:
                return _first(shared_accuracies(context, key, labelled))
            test = context.real.test
            return _first(
                context.measure(key, labelled, lambda net: net.accuracy(test), augment=augment)
            )

        everything, steps = all_training_images(context), full_data_steps(context)
        random: Labelled = random_images
        if has_soft_labels(context.distilled.labels):
            soft = SoftRandom(context)
            random = soft.with_temperature(soft.temperature)
            random_accuracies = _first(soft.accuracies())
        else:
            random_accuracies = top1("random_real", random)
        own = top1("distilled", context.distilled)
        hard = has_hard_labels(context)
        return [
            _first(shared_accuracies(context, "full_data", everything, steps=steps)),
            own if hard else top1("distilled_hard", with_hard_labels(context)),
            own,
            random_accuracies,
            top1("set_plain", context.distilled, NO_AUGMENTATION),
            top1("random_plain", random, NO_AUGMENTATION),
        ]


def _first(found: Sequence[tuple[float, ...]]) -> list[float]:
    return [values[0] for values in found]
