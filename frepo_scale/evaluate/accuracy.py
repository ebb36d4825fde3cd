"""The evaluation `accuracy`: the distilled set and the baselines that it has to exceed.

Source: docs/algorithm.md section 6: the same recipe with hard labels and with random real images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.evaluate.baselines import all_training_images, random_real_images, with_hard_labels
from frepo_scale.evaluate.evaluation import EvaluationContext, Measurement, Task

_SELECTED = {"held-out": ", best on held-out images", "last step": ", last step"}


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy of fresh nets trained on each set.

    Attributes:
      title: the heading of the table.
    """

    title: str = "test accuracy"

    def check(self, task: Task) -> None:
        """Raises InputError if all training images are asked for and not in memory."""
        if task.config.full_data and not task.in_memory:
            raise InputError(
                "FULL_DATA = True with training images that are read during the run",
                "images in memory",
                "leave FULL_DATA out, or use --gin.DATA_PLACEMENT=memory",
            )

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """Distilled, last step, hard labels, random real images, all training images."""
        label = "distilled set" + _SELECTED.get(context.selected_by, "")
        selected = context.score("distilled", context.distilled)
        yield Measurement("distilled", label, selected)
        last = context.sets.get("distilled_last")
        if last is not None:
            found = selected
            if last is not context.distilled:
                found = context.score("distilled_last", last)
            yield Measurement("distilled_last", "distilled set, last step", found)
        yield Measurement(
            "distilled_hard",
            "distilled images, hard labels",
            context.score("distilled_hard", with_hard_labels(context)),
        )

        def random_images(net: int) -> DistilledSet:
            return random_real_images(context, net)

        yield Measurement(
            "random_real", "random real images", context.score("random_real", random_images)
        )
        if context.config.full_data:
            steps = context.config.full_data_steps or context.steps
            everything = all_training_images(context)
            yield Measurement(
                "full_data",
                "full training set",
                context.score("full_data", everything, steps=steps),
            )
