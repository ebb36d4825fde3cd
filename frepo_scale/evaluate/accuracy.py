"""The evaluation `accuracy`: the distilled set and the baselines that it has to exceed.

Source: docs/algorithm.md section 6: the same recipe with hard labels and with random real images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from frepo_scale.core.types import DistilledSet
from frepo_scale.evaluate.baselines import (
    all_training_images,
    check_held_out,
    check_in_memory,
    full_data_steps,
    has_hard_labels,
    random_real_images,
    shared_score,
    with_full_data_steps,
    with_hard_labels,
)
from frepo_scale.evaluate.evaluation import EvaluationContext, Measurement, Task
from frepo_scale.evaluate.protocol import score
from frepo_scale.evaluate.soft_labels import SoftRandom, has_soft_labels

_SELECTED = {"held-out": ", best on held-out images", "last step": ", last step"}


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy of fresh nets trained on each set.

    Attributes:
      title: the heading of the table.
    """

    title: str = "test accuracy"

    def check(self, task: Task) -> None:
        """Raises InputError if training images are needed that are not in memory or not there."""
        if task.config.full_data:
            check_in_memory(task, "FULL_DATA = True", "leave FULL_DATA out")
        if task.config.soft_random:
            check_in_memory(task, "SOFT_RANDOM = True", "leave SOFT_RANDOM out")
            check_held_out(task, "SOFT_RANDOM = True", "leave SOFT_RANDOM out")

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """Distilled, last step, hard labels, random real images, all training images."""
        hard_labels = has_hard_labels(context)
        label = "distilled set" + _SELECTED.get(context.selected_by, "")
        if context.selected_step == 0:  # nothing was learned: no later step was better
            label += ", step 0 (initial images and labels)"
        label += ", hard labels" if hard_labels else ""
        selected = shared_score(context, "distilled", context.distilled)
        yield Measurement("distilled", label, selected)
        last = context.sets.get("distilled_last")
        if last is not None:
            found = selected
            if last is not context.distilled:
                found = context.score("distilled_last", last)
            yield Measurement("distilled_last", "distilled set, last step", found)
        if not hard_labels:
            hard = shared_score(context, "distilled_hard", with_hard_labels(context))
            yield Measurement("distilled_hard", "distilled images, hard labels", hard)

        def random_images(net: int) -> DistilledSet:
            return random_real_images(context, net)

        found = shared_score(context, "random_real", random_images)
        yield Measurement("random_real", "random real images", found)
        if context.config.soft_random and has_soft_labels(context.distilled.labels):
            yield self._soft(context)
        if context.config.full_data:
            steps, everything = full_data_steps(context), all_training_images(context)
            found = shared_score(context, "full_data", everything, steps=steps)
            name = with_full_data_steps(context, "full training set")
            yield Measurement("full_data", name, found, {"steps": steps})

    def _soft(self, context: EvaluationContext) -> Measurement:
        soft = SoftRandom(context)
        found = [(top1, top5) for top1, top5 in soft.accuracies()]
        return Measurement(
            "random_soft",
            "random real images, soft labels of a teacher",
            score(found, context.real.num_classes),
            {"temperature": soft.temperature},
        )
