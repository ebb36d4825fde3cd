"""Labelled sets that a distilled set is compared with, and scores that evaluations share.

Source: docs/algorithm.md section 6. Legend: N distilled images, n training images, K classes.
"""

from typing import Unpack

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import everything
from frepo_scale.distill.synthetic import hard_labels, real_set, scaled_labels
from frepo_scale.evaluate.evaluation import EvaluationContext, Labelled, Task, Training
from frepo_scale.evaluate.protocol import Score, score
from frepo_scale.evaluate.registry import file_version

_VERSION = file_version(__file__)


def with_hard_labels(context: EvaluationContext) -> DistilledSet:
    """The distilled images (N images) with the label of their class instead of the learned one."""
    classes = context.real.num_classes
    labels = scaled_labels(hard_labels(context.real.classes, context.ipc), classes)
    return DistilledSet(context.distilled.images, labels)


def has_hard_labels(context: EvaluationContext) -> bool:
    """Whether the set is its own baseline with hard labels, which then is not measured again."""
    own, hard = np.asarray(context.distilled.labels), with_hard_labels(context).labels
    return bool(np.allclose(own, hard, rtol=0, atol=1e-6))


def named_set(context: EvaluationContext, name: str = "distilled set") -> str:
    """The name of the distilled set in tables, which says where its labels are hard."""
    return f"{name}, hard labels" if has_hard_labels(context) else name


def random_real_images(context: EvaluationContext, net: int) -> DistilledSet:
    """N random training images with hard labels, another draw for each net.

    The spread over the nets then includes that of the draw.
    """
    key = key_for(context.seed, Purpose.RANDOM_BASELINE, net)
    return real_set(context.real.train, context.real.num_classes, context.ipc, key)


def all_training_images(context: EvaluationContext) -> DistilledSet:
    """All n training images that are not held out, with hard labels."""
    train, classes = context.real.train, context.real.num_classes
    return DistilledSet(everything(train), scaled_labels(np.asarray(train.labels), classes))


def full_data_steps(context: EvaluationContext) -> int:
    """Adam steps of nets trained on all training images."""
    return context.config.full_data_steps or context.steps


def with_full_data_steps(context: EvaluationContext, name: str) -> str:
    """`name`, with the Adam steps of nets trained on all training images if they are their own.

    An accuracy after few steps is no ceiling, so the table says how many there were.
    """
    steps = full_data_steps(context)
    return name if steps == context.steps else f"{name}, {steps:,} steps"


def check_in_memory(task: Task, what: str, fix: str) -> None:
    """Raises InputError if training images that `what` needs as a whole are not in memory."""
    if not task.in_memory:
        raise InputError(
            f"{what} with training images that are read during the run",
            "images in memory",
            f"{fix}, or use --gin.DATA_PLACEMENT=memory",
        )


def check_held_out(task: Task, what: str, fix: str) -> None:
    """Raises InputError if there are no held-out images, with which `what` chooses."""
    if not task.held_out:
        raise InputError(
            f"{what} with a data set of so few images that none is held out",
            "at least 20 training images of some class",
            fix,
        )


def shared_accuracies(
    context: EvaluationContext, key: str, labelled: Labelled, **training: Unpack[Training]
) -> list[tuple[float, ...]]:
    """Top-1 and top-5 test accuracy of each net trained on a set.

    Evaluations that call it with the same key train the nets once. The key therefore stands for
    the other arguments.
    """
    test = context.real.test
    shared = context.shared(_VERSION)
    return shared.measure(key, labelled, lambda net: net.accuracy(test), **training)


def shared_score(
    context: EvaluationContext, key: str, labelled: Labelled, **training: Unpack[Training]
) -> Score:
    """The score of `shared_accuracies`."""
    found = shared_accuracies(context, key, labelled, **training)
    return score([(top1, top5) for top1, top5 in found], context.real.num_classes)
