"""The evaluation `cross_architecture`: nets that the set was not made with.

Each net has a learning rate of its own for each set, the one of `RATES` with the best accuracy on
the held-out images. Test images take no part in the choice. The nets are those of `models`, at
their standard widths: the numbers are not comparable with those of Zhou et al. 2022, whose nets
differ (docs/algorithm.md section 7).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.evaluate.baselines import (
    check_held_out,
    has_hard_labels,
    named_set,
    random_real_images,
    with_hard_labels,
)
from frepo_scale.evaluate.evaluation import EvaluationContext, Labelled, Measurement, Task
from frepo_scale.evaluate.named_nets import named_nets
from frepo_scale.models.registry import NetConfig, build_net

RATES = (1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class CrossArchitecture:
    """Test accuracy of several nets on the distilled set, with hard labels, and on random images.

    Attributes:
      title: the heading of the table.
    """

    title: str = "test accuracy of several nets, learning rate chosen on held-out images"

    def check(self, task: Task) -> None:
        """Raises InputError if there are no held-out images or a net does not suit the images."""
        advice = "leave 'cross_architecture' out of EVALUATIONS"
        check_held_out(task, "cross_architecture", advice)
        entries = task.config.cross_nets
        possible, refusals = [], []
        for entry, net in zip(entries, named_nets(entries, task.net).values(), strict=True):
            try:
                build_net(net, task.num_classes, task.image_shape)
                possible.append(entry)
            except InputError as error:
                refusals.append((f"CROSS_NETS = [{entry!r}]: {error.what}", error.expected))
        for what, expected in refusals:
            fix = f'use --gin.CROSS_NETS="{possible}"' if possible else advice
            raise InputError(what, expected, fix)

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """One row for each net and each set."""
        runs = context.config.cross_runs or context.config.nets
        for name, net in named_nets(context.config.cross_nets, context.net).items():
            for key, what, labelled in _sets(context):
                rate = self._rate(context, f"{name} {key}", net, labelled)
                score = context.score(
                    f"{name} {key}", labelled, net=net, learning_rate=rate, nets=runs
                )
                facts = {"row": name, "column": what, "learning_rate": rate}
                yield Measurement(f"{name} {key}", f"{name}, {what}", score, facts)

    def _rate(
        self, context: EvaluationContext, key: str, net: NetConfig, labelled: Labelled
    ) -> float:
        found = {
            rate: context.score(
                f"{key} rate {rate:g}",
                labelled,
                net=net,
                learning_rate=rate,
                nets=1,
                held_out=True,
            ).mean
            for rate in RATES
        }
        return max(found, key=lambda rate: found[rate])


def _sets(context: EvaluationContext) -> list[tuple[str, str, Labelled]]:
    """Key, name and images of the sets: two where the labels of the distilled one are hard."""

    def random_images(net: int) -> DistilledSet:
        return random_real_images(context, net)

    random: tuple[str, str, Labelled] = ("random_real", "random real images", random_images)
    if has_hard_labels(context):
        return [("distilled", named_set(context), context.distilled), random]
    return [
        ("distilled", "distilled set", context.distilled),
        ("distilled_hard", "hard labels", with_hard_labels(context)),
        random,
    ]
