"""Labelled sets that a distilled set is compared with, for every evaluation.

Source: docs/algorithm.md section 6. Legend: N distilled images, n training images, K classes.
"""

import numpy as np

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import everything
from frepo_scale.distill.synthetic import hard_labels, real_set, scaled_labels
from frepo_scale.evaluate.evaluation import EvaluationContext


def with_hard_labels(context: EvaluationContext) -> DistilledSet:
    """The distilled images (N images) with the label of their class instead of the learned one."""
    classes = context.real.num_classes
    labels = scaled_labels(hard_labels(context.real.classes, context.ipc), classes)
    return DistilledSet(context.distilled.images, labels)


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
