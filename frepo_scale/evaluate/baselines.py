"""The final numbers of a distilled set, beside the baselines it has to beat.

Source: ALGORITHM.md section 6: the same recipe with hard labels and with random real images.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows, everything
from frepo_scale.distill.synthetic import hard_labels, real_set, scaled_labels
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator


@dataclass(frozen=True)
class RealData:
    """Real images a result is measured with.

    Attributes:
      train: float32 net inputs and labels of the target part.
      test: the same of the test part.
      num_classes: K.
    """

    train: Rows
    test: Rows
    num_classes: int


def _same(labelled: DistilledSet, net: int) -> DistilledSet:
    """Every net trains on the same set."""
    return labelled


def final_scores(
    evaluator: Evaluator,
    config: EvaluationConfig,
    real: RealData,
    sets: dict[str, DistilledSet],
    ipc: int,
    seed: int,
    finished: FinishedNets,
) -> dict[str, Any]:
    """Test accuracies by name, each {"mean", "std", "n"}.

    Args:
      evaluator: trains the nets.
      config: the protocol.
      real: the real images.
      sets: distilled sets by the name they are reported under; "distilled" is also scored with
        hard labels, as "distilled_hard".
      ipc: images per class.
      seed: the run's seed.
      finished: nets that an earlier attempt has evaluated.
    """
    classes = real.num_classes
    images = sets["distilled"].images
    steps = config.steps_for(len(images))

    def random_images(net: int) -> DistilledSet:
        # Another draw for every net: the spread then includes the luck of the draw.
        key = key_for(seed, Purpose.RANDOM_BASELINE, net)
        return real_set(real.train, classes, ipc, key)

    hard = DistilledSet(images, scaled_labels(hard_labels(classes, ipc), classes))
    scores = {}
    for name, labelled in (sets | {"distilled_hard": hard}).items():
        scores[name] = evaluator.final(
            name.replace("_", " "), partial(_same, labelled), real.test, classes, steps, finished
        )
    scores["random_real"] = evaluator.final(
        "random real", random_images, real.test, classes, steps, finished
    )
    if config.full_data:
        whole = DistilledSet(
            everything(real.train), scaled_labels(np.asarray(real.train.labels), classes)
        )
        full_steps = config.full_data_steps or steps
        scores["full_data"] = evaluator.final(
            "full data", partial(_same, whole), real.test, classes, full_steps, finished
        )
    return {name: found.as_dict() for name, found in scores.items()}
