"""The evaluation protocol: settings, scores of several fresh nets, probes.

Source: docs/algorithm.md sections 5 and 6.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.settings import check_settings, setting
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.types import Rows
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import FitConfig, Fitter, TrainedNet
from frepo_scale.evaluate.named_nets import named_nets
from frepo_scale.evaluate.registry import check_evaluations
from frepo_scale.models.apply import NET_DTYPES
from frepo_scale.models.registry import NetConfig
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress

TOP5_FROM = 100  # top-5 accuracy is reported from this number of classes on
# Steps of the final evaluation by number of distilled images (docs/algorithm.md section 5).
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
    """How distilled sets are evaluated."""

    nets: int = setting(5, "EVAL_NETS", "fresh nets of a final number", low=1)
    steps: int = setting(
        0,
        "EVAL_STEPS",
        "Adam steps of each of these nets; 0: as in the paper, by number of images",
        low=0,
    )
    probe_nets: int = setting(5, "PROBE_NETS", "fresh nets of a probe", low=1)
    probe_steps: int = setting(1_000, "PROBE_STEPS", "Adam steps of each net of a probe", low=1)
    learning_rate: float = setting(
        3e-4,
        "EVAL_LEARNING_RATE",
        "learning rate of Adam for nets of evaluations and probes",
        above=0,
    )
    batch: int = setting(500, "", "largest batch of a step", low=1)
    dtype: str = setting(
        "float32",
        "EVAL_DTYPE",
        "dtype of nets of evaluations and probes in training: float32 | bfloat16; they are tested"
        " in float32",
        choices=NET_DTYPES,
    )
    flip: bool | None = setting(
        None,
        "EVAL_FLIP",
        "training images may be mirrored; None: as it suits the data set",
    )
    full_data: bool = setting(
        False, "FULL_DATA", "nets are also trained on all real images, for comparison"
    )
    full_data_steps: int = setting(
        0,
        "FULL_DATA_STEPS",
        "Adam steps of the nets of FULL_DATA; 0: as for the distilled set",
        low=0,
    )
    soft_random: bool = setting(
        False,
        "SOFT_RANDOM",
        "nets are also trained on random real images with soft labels of a teacher, for comparison",
    )
    cross_nets: list[Any] = setting(
        ["convnet", "alexnet/none", "vgg11/batch", "resnet18/batch"],
        "CROSS_NETS",
        "nets of the evaluation cross_architecture: NET, NET/NORM, or a dict of fields",
    )
    cross_runs: int = setting(
        0, "CROSS_RUNS", "fresh nets of each number of cross_architecture; 0: EVAL_NETS", low=0
    )
    robustness_images: int = setting(
        1_000, "ROBUSTNESS_IMAGES", "test images of the evaluation robustness; 0: all", low=0
    )
    evaluations: list[str] = setting(
        ["accuracy"],
        "EVALUATIONS",
        "names of evaluations, or dotted paths of classes of your own",
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)
        object.__setattr__(self, "evaluations", check_evaluations(self.evaluations))
        named_nets(self.cross_nets, NetConfig())

    def steps_for(self, size: int) -> int:
        """Adam steps of the final evaluation of `size` images."""
        return self.steps or steps_by_size(size)


def is_guessing(accuracy: float, classes: int, images: int) -> bool:
    """Whether an accuracy is that of guessing, within three standard deviations.

    False where there are too few images to tell good nets from guessing.

    Args:
      accuracy: the fraction of correct predictions, in [0, 1].
      classes: K.
      images: number of images tested.
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
    """Accuracies of several nets.

    Attributes:
      mean: over the nets, a fraction in [0, 1].
      std: over the nets (population).
      n: number of nets.
      top5_mean: the same of the top-5 accuracy, where it is reported.
      top5_std: the same.
    """

    mean: float
    std: float
    n: int
    top5_mean: float | None = None
    top5_std: float | None = None

    @staticmethod
    def of(values: Sequence[float]) -> "Score":
        """The score of one number per net."""
        array = np.array(values)
        return Score(float(array.mean()), float(array.std()), len(array))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; top-5 only where it is reported."""
        return {k: v for k, v in vars(self).items() if v is not None}


def score(accuracies: list[tuple[float, float]], num_classes: int) -> Score:
    """Summarises (top-1, top-5) accuracies of several nets; top-5 from 100 classes on."""
    top1, top5 = (Score.of(values) for values in zip(*accuracies, strict=True))
    if num_classes < TOP5_FROM:
        return top1
    return Score(top1.mean, top1.std, top1.n, top5.mean, top5.std)


class Evaluator:
    """Trains and tests fresh nets of one architecture; compiled functions are reused."""

    def __init__(
        self,
        module: nn.Module,
        config: EvaluationConfig,
        augment: AugmentConfig,
        seed: int,
        preemption: Preemption,
    ) -> None:
        """Compiles nothing yet.

        Args:
          module: the evaluation net.
          config: the protocol.
          augment: the augmentation.
          seed: the run's seed.
          preemption: polled while nets are trained.
        """
        self._module, self._config, self.augment = module, config, augment
        self._seed, self._preemption = seed, preemption
        self._fitters: dict[tuple[FitConfig, int], Fitter] = {}

    def poll(self) -> None:
        """Raises Preempted if a stop was requested; for long work without training."""
        self._preemption.check()

    def with_net(self, module: nn.Module) -> "Evaluator":
        """The same for another net."""
        return Evaluator(module, self._config, self.augment, self._seed, self._preemption)

    def probe(self, distilled: DistilledSet, rows: Rows, num_classes: int) -> Score:
        """A quick score with few steps, for the choice of the best distilled set.

        Args:
          distilled: images (N, H, W, C), labels (N, K).
          rows: float32 net inputs and integer labels to test on.
          num_classes: K.
        """
        fit = FitConfig(
            self._config.probe_steps,
            self._config.batch,
            self._config.learning_rate,
            constant=True,
            augment=self.augment,
            dtype=self._config.dtype,
        )
        values = self.measure(
            "probe",
            fit,
            self._config.probe_nets,
            lambda net: distilled,
            lambda trained: trained.accuracy(rows),
            FinishedNets(None, {}, ""),
        )
        return score([(top1, top5) for top1, top5 in values], num_classes)

    def measure(
        self,
        name: str,
        fit: FitConfig,
        nets: int,
        labelled: Callable[[int], DistilledSet],
        test: Callable[[TrainedNet], Sequence[float]],
        finished: FinishedNets,
        at: Sequence[int] = (),
    ) -> list[tuple[float, ...]]:
        """Trains fresh nets and measures each.

        Args:
          name: the measurements are stored under it; what follows its first "/" is shown in the
            progress bar.
          fit: how the nets are trained.
          nets: how many.
          labelled: the set that net number 0, 1, ... is trained on.
          test: takes a trained net and returns numbers.
          finished: measurements of an earlier attempt; completed here.
          at: after how many steps `test` is called; nothing: after the last one.

        Returns:
          What `test` returned, one tuple per net; with `at` one call after the other.

        Raises:
          Preempted: a stop was requested.
        """
        found: list[tuple[float, ...]] = []
        with Progress(_shown(name), fit.steps * nets) as progress:
            for net in range(nets):
                values = finished.get(name, net)
                if values is None:
                    measured: list[float] = []

                    def visit(done: int, trained: TrainedNet, to: list[float] = measured) -> None:
                        if done in (at or (fit.steps,)):
                            to.extend(test(trained))

                    self._train(fit, labelled(net), net, progress.advance, visit)
                    values = tuple(measured)
                    finished.put(name, net, values)
                else:
                    progress.advance(fit.steps)
                found.append(values)
        return found

    def train(self, name: str, fit: FitConfig, labelled: DistilledSet, net: int) -> TrainedNet:
        """Trains fresh net number `net` on a labelled set; `name` is shown in the progress bar."""
        with Progress(_shown(name), fit.steps) as progress:
            return self._train(fit, labelled, net, progress.advance)

    def _train(
        self,
        fit: FitConfig,
        labelled: DistilledSet,
        net: int,
        advance: Callable[[int], None],
        visit: Callable[[int, TrainedNet], None] = lambda done, trained: None,
    ) -> TrainedNet:
        data = DistilledSet(*(jnp.asarray(x) for x in labelled))
        fitter = self._fitter(fit, len(data.images))

        def visited(done: int, state: Any) -> None:
            visit(done, TrainedNet(fitter, state, net))

        return TrainedNet(fitter, fitter.fit(data, net, self._preemption, advance, visited), net)

    def _fitter(self, fit: FitConfig, size: int) -> Fitter:
        # One compilation serves every learning rate.
        key = replace(fit, learning_rate=0.0), size
        if key not in self._fitters:
            self._fitters[key] = Fitter(self._module, fit, size, self._seed)
        return self._fitters[key].at_rate(fit.learning_rate)


def _shown(name: str) -> str:
    return (name.partition("/")[2] or name).replace("_", " ")
