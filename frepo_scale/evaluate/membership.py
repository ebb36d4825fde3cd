"""The evaluation `membership`: does a net betray which real images its training set came from?

Source: docs/algorithm.md section 9. Each run of a series distils one disjoint chunk of the training
images. For each chunk one arm of fresh nets is trained on the distilled set, and one on the chunk
itself. After 100 to 16 000 updates attacks tell the images of the chunk (members) from the test
images. An area under the ROC curve of 50 % is guessing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows, everything
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.attacks import ATTACKS, Outputs, run_attacks
from frepo_scale.evaluate.continual import check_series
from frepo_scale.evaluate.evaluation import EvaluationContext, Measurement, Part, Task
from frepo_scale.evaluate.fit import TrainedNet
from frepo_scale.evaluate.protocol import Score

# Updates after which a net is attacked; those below EVAL_STEPS, and EVAL_STEPS, where it is set.
UPDATES = (100, 250, 500, 1000, 2000, 4000, 8000, 16_000)
ARMS = {"distilled": "distilled chunk", "real": "real chunk"}
_AT_ONCE = 500  # images per call of the net
_NUMBERS = 1 + 2 * len(ATTACKS)  # of one net after one number of updates


@dataclass(frozen=True)
class Membership:
    """Test accuracy and the AUC of five attacks, of nets trained on distilled and real chunks.

    Attributes:
      title: the heading of the table of attacks.
      x_label: of the figures.
      series: what the runs of its series differ in.
    """

    title: str = "AUC of membership attacks"
    x_label: str = "updates"
    series: str = "chunks"

    def check(self, task: Task) -> None:
        """Raises InputError unless it judges a series of chunks that are in memory."""
        check_series("membership", self.series, task)
        if not task.in_memory:
            raise InputError(
                "EVALUATIONS: 'membership' with training images that are read during the run",
                "images in memory: nets are trained on whole chunks",
                "use --gin.DATA_PLACEMENT=memory",
            )

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """Test accuracy, then every attack: of both arms, after every number of updates."""
        updates = _updates(context.config.steps)
        shape = (-1, len(updates), _NUMBERS)
        found = {
            arm: np.concatenate([_measure(context, part, arm, updates) for part in context.parts])
            for arm in ARMS
        }
        measured = {arm: values.reshape(shape) for arm, values in found.items()}
        for arm, label in ARMS.items():
            for place, number in enumerate(updates):
                score = Score.of(measured[arm][:, place, 0].tolist())
                name = f"{label}, {number} updates"
                key = f"{arm}_accuracy_{number}"
                yield Measurement(key, name, score, label, number, "test accuracy")
        for arm, label in ARMS.items():
            for column, (attack, attack_label) in enumerate(ATTACKS.items()):
                curve = f"{label}: {attack_label}"
                for place, number in enumerate(updates):
                    values = measured[arm][:, place, 1 + 2 * column : 3 + 2 * column]
                    score = _mean_auc(values)
                    name, key = f"{curve}, {number} updates", f"{arm}_{attack}_{number}"
                    yield Measurement(key, name, score, curve, number)


def _updates(steps: int) -> tuple[int, ...]:
    """The numbers of updates, for `EVAL_STEPS`, 0 where it is not set."""
    last = steps or UPDATES[-1]
    return (*(number for number in UPDATES if number < last), last)


def _mean_auc(values: np.ndarray) -> Score:
    """The mean of AUCs (n, 2), each with its standard error.

    The mean of the standard errors bounds that of the mean, however the AUCs depend on each other:
    they have the test images in common, and several nets of one chunk its members.
    """
    mean = Score.of(values[:, 0].tolist())
    return replace(mean, standard_error=float(values[:, 1].mean()))


def _measure(
    context: EvaluationContext, part: Part, arm: str, updates: tuple[int, ...]
) -> np.ndarray:
    """What is measured of the nets of one arm on one chunk: (nets, updates * _NUMBERS)."""
    labelled: Callable[[int], DistilledSet] = lambda net: part.distilled  # noqa: E731
    if arm == "real":
        labels = scaled_labels(np.asarray(part.real.train.labels), part.real.num_classes)
        labelled = lambda net: DistilledSet(everything(part.real.train), labels)  # noqa: E731
    values = context.measure(
        f"{part.name}_{arm}",
        labelled,
        partial(_attacked, part, context.seed),
        at=updates,
        steps=updates[-1],
        constant=True,  # as the published code: then one training serves all numbers of updates
    )
    return np.array(values)


def _attacked(part: Part, seed: int, net: TrainedNet) -> list[float]:
    """The test accuracy of a net, and of every attack the AUC and its standard error."""
    accuracy, _ = net.accuracy(part.real.test)
    members, others = (
        outputs_of(net, rows, part.real.num_classes) for rows in (part.real.train, part.real.test)
    )
    attacks = run_attacks(members, others, seed)
    return [accuracy, *(number for name in ATTACKS for number in attacks[name])]


def outputs_of(net: TrainedNet, rows: Rows, num_classes: int) -> Outputs:
    """Logits and loss of a net for float32 net inputs; the loss is that of training.

    Args:
      net: a trained net.
      rows: images (n, H, W, C) and labels.
      num_classes: K.
    """
    apply, parts = _logits_of(net.module), []
    for low in range(0, len(rows), _AT_ONCE):
        chosen = np.arange(low, min(low + _AT_ONCE, len(rows)))
        missing = _AT_ONCE - len(chosen)
        images = np.pad(rows.at(chosen), [(0, missing)] + [(0, 0)] * 3)
        parts.append(np.asarray(apply(net.variables, images))[: len(chosen)])
    logits = np.concatenate(parts)
    targets = scaled_labels(np.asarray(rows.labels), num_classes)
    return Outputs(logits, 0.5 * np.sum((logits - targets) ** 2, axis=1))


@lru_cache(maxsize=4)
def _logits_of(module: nn.Module) -> Any:
    """The jitted function from variables and images to logits."""
    return jax.jit(lambda variables, images: module.apply(variables, images, train=False)[0])
