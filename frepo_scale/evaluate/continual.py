"""The evaluation `continual`: class-incremental learning with the distilled sets of the steps.

Source: docs/algorithm.md section 9. A series of runs distils the classes step by step. After step
k, fresh nets are trained from scratch on the sets of the steps 0 to k together, and tested on all
test images of the classes seen so far. A prediction is the largest of the logits of all classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Chosen, Rows, everything
from frepo_scale.distill.synthetic import real_set, scaled_labels
from frepo_scale.evaluate.accuracy import Accuracy
from frepo_scale.evaluate.baselines import named_set
from frepo_scale.evaluate.evaluation import EvaluationContext, Measurement, Part, Task
from frepo_scale.evaluate.protocol import Score

X_LABEL = "classes seen"
STEPS = 10_000  # Adam steps of each net, unless EVAL_STEPS is set
Sets = Callable[[list[Part], int], DistilledSet]


@dataclass(frozen=True)
class Continual:
    """Test accuracy on the classes seen after every step.

    Attributes:
      title: the heading of the table.
      series: what the runs of its series differ in.
    """

    title: str = "test accuracy on the classes seen"
    series: str = "classes"

    def check(self, task: Task) -> None:
        """Raises InputError unless it evaluates a series of classes."""
        check_series("continual", self.series, task)
        Accuracy().check(task)  # of FULL_DATA

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """The distilled sets, random real images and all images, each after every step."""
        curves: dict[str, tuple[str, Sets]] = {
            "distilled": (named_set(context, "distilled sets"), _distilled),
            "random_real": ("random real images", partial(_random_real, context)),
        }
        if context.config.full_data:
            curves["full_data"] = ("all training images", partial(_all_real, context))
        for key, (label, labelled) in curves.items():
            steps = context.config.steps or STEPS
            if key == "full_data" and (own := context.config.full_data_steps):
                steps, label = own, f"{label}, {own:,} steps"
            for step in range(len(context.parts)):
                score, seen = _after(context, key, step, labelled, steps)
                name = f"{label}, {seen} classes seen"
                yield Measurement(f"{key}_{step}", name, score, point(label, seen, X_LABEL))


def point(curve: str, x: int, x_label: str) -> dict[str, Any]:
    """The facts that make a row a point of a curve, and a cell of a table of curves by x."""
    return {"row": curve, "column": str(x), "x": x, "x_label": x_label}


def check_series(name: str, wanted: str, task: Task) -> None:
    """Raises InputError unless the task is the result of a series of the kind `wanted`."""
    if task.series != wanted:
        raise InputError(
            f"EVALUATIONS: {name!r} with SERIES = {task.series!r}",
            f"SERIES = {wanted!r}: it evaluates the sets of several runs",
            f"use --gin.SERIES={wanted}, or leave {name!r} out",
        )


def _after(
    context: EvaluationContext, key: str, step: int, labelled: Sets, steps: int
) -> tuple[Score, int]:
    """The accuracy after a step, and the number of classes seen."""
    parts = list(context.parts[: step + 1])
    classes = np.concatenate([part.classes for part in parts])
    score = context.score(
        f"{key}_{step}",
        lambda net: labelled(parts, net),
        rows=images_of(context.real.test, classes),
        steps=steps,
    )
    return score, len(classes)


def images_of(rows: Rows, classes: np.ndarray) -> Rows:
    """The images of some classes (k,)."""
    return Chosen(rows, np.flatnonzero(np.isin(rows.labels, classes)))


def _distilled(parts: list[Part], net: int) -> DistilledSet:
    return joined([part.distilled for part in parts])


def joined(sets: list[DistilledSet]) -> DistilledSet:
    """Several labelled sets as one, in order."""
    return DistilledSet(
        np.concatenate([np.asarray(one.images) for one in sets]),
        np.concatenate([np.asarray(one.labels) for one in sets]),
    )


def _random_real(context: EvaluationContext, parts: list[Part], net: int) -> DistilledSet:
    """As many random real images of each class; a net's images of a class stay the same."""
    real, classes = context.real.train, context.real.num_classes
    keys = [key_for(context.seed, Purpose.RANDOM_BASELINE, net, step) for step in range(len(parts))]
    return joined(
        [
            real_set(images_of(real, part.classes), classes, context.ipc, key)
            for part, key in zip(parts, keys, strict=True)
        ]
    )


def _all_real(context: EvaluationContext, parts: list[Part], net: int) -> DistilledSet:
    """All training images of the classes seen, with hard labels."""
    known = images_of(context.real.train, np.concatenate([part.classes for part in parts]))
    labels = scaled_labels(np.asarray(known.labels), context.real.num_classes)
    return DistilledSet(everything(known), labels)
