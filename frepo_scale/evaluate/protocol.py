"""The evaluation protocol: several fresh nets, mean and spread, probes and baselines.

Source: ALGORITHM.md sections 5 and 6.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.settings import check_settings, setting
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import TOP5_FROM, FitConfig, Fitter
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress

# Steps of the final evaluation by number of synthetic images (ALGORITHM.md section 5).
STEPS_BY_SIZE = (
    (10, 1_000),
    (100, 2_000),
    (200, 20_000),
    (400, 5_000),
    (500, 5_000),
    (1_000, 10_000),
    (2_000, 40_000),
    (5_000, 40_000),
)


@dataclass(frozen=True)
class EvaluationConfig:
    """How distilled sets are judged."""

    nets: int = setting(5, "EVAL_NETS", "fresh nets of a final number", low=1)
    steps: int = setting(
        0, "EVAL_STEPS", "Adam steps of each; 0: as in the paper, by number of images", low=0
    )
    probe_nets: int = setting(5, "PROBE_NETS", "fresh nets of a probe", low=1)
    probe_steps: int = setting(1_000, "PROBE_STEPS", "Adam steps of each", low=1)
    learning_rate: float = setting(
        3e-4, "EVAL_LEARNING_RATE", "Adam, for nets of evaluations and probes", above=0
    )
    batch: int = setting(500, "", "largest batch of a step", low=1)
    flip: bool | None = setting(
        None,
        "EVAL_FLIP",
        "training images may be mirrored; None: as it suits the data set",
    )
    full_data: bool = setting(
        False, "FULL_DATA", "nets are also trained on all real images, for comparison"
    )
    full_data_steps: int = setting(
        0, "FULL_DATA_STEPS", "Adam steps there; 0: as for the distilled set", low=0
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)

    def steps_for(self, size: int) -> int:
        """Adam steps of the final evaluation of `size` images."""
        return self.steps or steps_by_size(size)


def is_guessing(accuracy: float, classes: int, images: int) -> bool:
    """Whether nets that guess would be as good, within three standard deviations.

    False where so few images were seen that good nets would not stand out either.

    Args:
      accuracy: the share of the images that were right, in [0, 1].
      classes: K.
      images: how many were seen.
    """
    chance = 1.0 / classes
    most = chance + 3.0 * math.sqrt(chance * (1.0 - chance) / images)
    return accuracy <= most < (1.0 + chance) / 2


def steps_by_size(size: int) -> int:
    """`STEPS_BY_SIZE`, linear in log(size) between its entries, clamped outside."""
    if size <= STEPS_BY_SIZE[0][0]:
        return STEPS_BY_SIZE[0][1]
    for (low, low_steps), (high, high_steps) in pairwise(STEPS_BY_SIZE):
        if size <= high:
            share = math.log(size / low) / math.log(high / low)
            return round(low_steps + share * (high_steps - low_steps))
    return STEPS_BY_SIZE[-1][1]


@dataclass(frozen=True)
class Score:
    """Accuracies of several nets; `std` is over the nets (population)."""

    mean: float
    std: float
    n: int
    top5_mean: float | None = None
    top5_std: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; top-5 only where it is reported."""
        return {k: v for k, v in vars(self).items() if v is not None}


def score(accuracies: list[tuple[float, float]], num_classes: int) -> Score:
    """Summarises (top-1, top-5) accuracies of several nets."""
    top1, top5 = (np.array(values) for values in zip(*accuracies, strict=True))
    if num_classes < TOP5_FROM:
        return Score(float(top1.mean()), float(top1.std()), len(top1))
    return Score(
        float(top1.mean()), float(top1.std()), len(top1), float(top5.mean()), float(top5.std())
    )


class Evaluator:
    """Judges labelled sets with fresh nets; compiled functions are kept between calls."""

    def __init__(
        self,
        module: nn.Module,
        config: EvaluationConfig,
        augment: AugmentConfig,
        seed: int,
        preemption: Preemption,
    ) -> None:
        """Builds nothing yet.

        Args:
          module: the evaluation net.
          config: the protocol.
          augment: the augmentation.
          seed: the run's seed.
          preemption: polled while nets are trained.
        """
        self._module, self._config, self._augment = module, config, augment
        self._seed, self._preemption = seed, preemption
        self._fitters: dict[tuple[FitConfig, int], Fitter] = {}

    def probe(self, distilled: DistilledSet, split: Rows, num_classes: int) -> Score:
        """A quick score on `split`, whose images are float32 net inputs."""
        fit = FitConfig(
            self._config.probe_steps,
            self._config.batch,
            self._config.learning_rate,
            constant=True,
            augment=self._augment,
        )
        return self._score(
            "probe",
            fit,
            self._config.probe_nets,
            lambda net: distilled,
            split,
            num_classes,
            FinishedNets(None, {}, ""),
        )

    def final(
        self,
        what: str,
        data: Callable[[int], DistilledSet],
        split: Rows,
        num_classes: int,
        steps: int,
        finished: FinishedNets,
    ) -> Score:
        """The score of the protocol.

        Args:
          what: shown in the progress bar.
          data: the labelled set net number i trains on.
          split: test images, float32 net inputs, and labels.
          num_classes: K.
          steps: Adam steps per net.
          finished: nets that are done already, under `what`.
        """
        fit = FitConfig(
            steps,
            self._config.batch,
            self._config.learning_rate,
            constant=False,
            augment=self._augment,
        )
        return self._score(what, fit, self._config.nets, data, split, num_classes, finished)

    def _score(
        self,
        what: str,
        fit: FitConfig,
        nets: int,
        data: Callable[[int], DistilledSet],
        split: Rows,
        num_classes: int,
        finished: FinishedNets,
    ) -> Score:
        accuracies = []
        with _bar(what, fit.steps * nets) as advance:
            for net in range(nets):
                known = finished.get(what, net)
                if known is not None:
                    accuracies.append(known)
                    advance(fit.steps)
                    continue
                labelled = DistilledSet(*(jnp.asarray(x) for x in data(net)))
                fitter = self._fitter(fit, len(labelled.images))
                state = fitter.fit(labelled, net, self._preemption, advance)
                accuracies.append(fitter.test(state, split))
                finished.put(what, net, accuracies[-1])
        return score(accuracies, num_classes)

    def _fitter(self, fit: FitConfig, size: int) -> Fitter:
        if (fit, size) not in self._fitters:
            self._fitters[fit, size] = Fitter(self._module, fit, size, self._seed)
        return self._fitters[fit, size]


@contextmanager
def _bar(what: str, steps: int) -> Iterator[Callable[[int], None]]:
    with Progress(what, steps) as progress:
        yield progress.advance
