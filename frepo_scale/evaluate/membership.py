"""The evaluation `membership`: does a net betray which real images its training set came from?

Source: docs/algorithm.md section 9. Each run of a series distils one disjoint chunk of the training
images. For each chunk one arm of fresh nets is trained on the distilled set, and one on the chunk
itself. After 100 to 16 000 updates attacks tell the images of the chunk (members) from the test
images. An area under the ROC curve of 50 % is guessing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows, everything
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.baselines import named_set
from frepo_scale.evaluate.continual import check_series, point
from frepo_scale.evaluate.evaluation import EvaluationContext, Measurement, Part, Task
from frepo_scale.evaluate.fit import TrainedNet
from frepo_scale.evaluate.membership_attacks import ATTACKS, Outputs, run_attacks
from frepo_scale.evaluate.protocol import Score

# Updates after which a net is attacked; those below EVAL_STEPS, and EVAL_STEPS, where it is set.
UPDATES = (100, 250, 500, 1000, 2000, 4000, 8000, 16_000)
X_LABEL = "updates"
ARMS = {"distilled": "distilled chunk", "real": "real chunk"}
_AT_ONCE = 500  # images per call of the net
_NUMBERS = 1 + 2 * len(ATTACKS)  # of one net after one number of updates


@dataclass(frozen=True)
class Membership:
    """Test accuracy and the AUC of five attacks, of nets trained on distilled and real chunks.

    Attributes:
      title: the heading of the table.
      series: what the runs of its series differ in.
    """

    title: str = "test accuracy, and AUC of membership attacks, by number of updates"
    series: str = "chunks"

    def check(self, task: Task) -> None:
        """Raises InputError unless it evaluates a series of chunks that are in memory."""
        check_series("membership", self.series, task)
        if not task.in_memory:
            raise InputError(
                "EVALUATIONS: 'membership' with training images that are read during the run",
                "images in memory: nets are trained on whole chunks",
                "use --gin.DATA_PLACEMENT=memory",
            )

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """Of both arms the test accuracy and every attack, after every number of updates."""
        updates = _updates(context.config.steps)
        shape = (-1, len(updates), _NUMBERS)
        found = {
            arm: np.concatenate([_measure(context, part, arm, updates) for part in context.parts])
            for arm in ARMS
        }
        measured = {arm: values.reshape(shape) for arm, values in found.items()}
        for arm, label in (ARMS | {"distilled": named_set(context, ARMS["distilled"])}).items():
            for place, number in enumerate(updates):
                score = Score.of(measured[arm][:, place, 0].tolist())
                facts = point(f"{label}: test accuracy", number, X_LABEL)
                key = f"{arm}_accuracy_{number}"
                yield Measurement(key, f"{facts['row']}, {number} updates", score, facts)
            for column, (attack, attack_label) in enumerate(ATTACKS.items()):
                for place, number in enumerate(updates):
                    values = measured[arm][:, place, 1 + 2 * column : 3 + 2 * column]
                    facts = point(f"{label}: AUC, {attack_label}", number, X_LABEL)
                    facts |= {"standard_error": _error(values), "lower_is_better": True}
                    score = Score.of(values[:, 0].tolist())
                    key = f"{arm}_{attack}_{number}"
                    yield Measurement(key, f"{facts['row']}, {number} updates", score, facts)


def _updates(steps: int) -> tuple[int, ...]:
    """The numbers of updates, for `EVAL_STEPS`, 0 where it is not set."""
    last = steps or UPDATES[-1]
    return (*(number for number in UPDATES if number < last), last)


def _error(aucs: np.ndarray) -> float:
    """A bound of the standard error of the mean of AUCs (n, 2), each with its standard error.

    It is their mean, which bounds that of the mean however the AUCs depend on each other: they have
    the test images in common, and several nets of one chunk its members.
    """
    return float(aucs[:, 1].mean())


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
