"""The evaluation seam: what an evaluation is given, and what it returns.

An evaluation is one class in one module. It trains fresh nets on labelled sets of images and yields
named scores; `result.json`, the printed table and `report.html` take their rows from it. `accuracy`
is the example to read; docs/how-to/evaluation.md shows a complete one.

Legend: N distilled images, H W height and width in pixels, C channels, K classes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np

from frepo_scale.core.errors import RunError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.types import Rows
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.evaluate.encoders import Encoders
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import FINAL_DRAWS, PROBE_DRAWS, FitConfig, TrainedNet
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator, Score, score
from frepo_scale.models.registry import NetConfig, build_net

# A labelled set, or a function from the number of a net to the set that net is trained on.
Labelled = DistilledSet | Callable[[int], DistilledSet]


class Training(TypedDict, total=False):
    """How nets are trained; what is left out is the default of the protocol.

    Attributes:
      nets: number of fresh nets; default `EVAL_NETS`.
      steps: Adam steps; default `EVAL_STEPS`, or the paper's for the number of distilled images.
      learning_rate: Adam's; default `EVAL_LEARNING_RATE`.
      net: the net; default: the evaluation net of the recipe.
      augment: the augmentation; default: that of the data set.
      constant: whether the learning rate stays constant; default False, see `fit.FitConfig`.
      held_out: use other random draws than those of final scores, and the held-out images where
        `score` tests on test images: for choices, which must not see the test images.
    """

    nets: int
    steps: int
    learning_rate: float
    net: NetConfig
    augment: AugmentConfig
    constant: bool
    held_out: bool


class Measurement(NamedTuple):
    """One row of a result.

    Attributes:
      key: names the row in `result.json`, such as "random_real"; unique within its evaluation.
      label: names it in the table and the report, such as "random real images".
      score: what was measured.
      facts: further entries of the row in `result.json`, such as a chosen learning rate. "row" and
        "column" arrange the rows of an evaluation that all have them as a table with two axes,
        in the report as a heat map. "unit" is "%" unless given: the score is a fraction; with
        "" it is shown as it is. With "x" and "x_label" the rows of one "row" are the points of a
        curve in the report. "standard_error", of an AUC, is shown instead of `std`.
        "lower_is_better" is for `frepo-scale compare`, which marks the best value.
    """

    key: str
    label: str
    score: Score
    facts: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class RealData:
    """Real images as float32 net inputs, with their labels.

    Attributes:
      train: the training part without the held-out images.
      test: the test part.
      num_classes: K.
      held_out: the held-out part of the training images, for choices such as a learning rate; it
        may be empty.
    """

    train: Rows
    test: Rows
    num_classes: int
    held_out: Rows | None = None

    @property
    def classes(self) -> np.ndarray:
        """The classes that have training images, ascending: (k,), all K unless `CLASSES` is set."""
        return np.unique(self.train.labels)


@dataclass(frozen=True)
class Part:
    """The result of one run of a series (docs/recipes.md).

    Attributes:
      name: of the run, such as "part_00"; the folder of its workdir.
      classes: (k,) the classes it distilled, ascending.
      distilled: its set, labels (k * ipc, K) over all classes.
      real: the data of its chunk as its nets see them; of a series of classes those of all runs.
    """

    name: str
    classes: np.ndarray
    distilled: DistilledSet
    real: RealData


@dataclass(frozen=True)
class Task:
    """Facts that are known before a run starts, for the method `check` of an evaluation.

    Attributes:
      config: the settings of evaluations.
      net: the default evaluation net.
      image_shape: (H, W, C).
      num_classes: K.
      held_out: number of held-out images.
      in_memory: whether the training images are held in memory as a whole.
      series: what the runs of the series differ in: "classes" or "chunks"; None: it is one run.
      encoders: the nets of `POOL_WEIGHTS`; None where the recipe names none.
    """

    config: EvaluationConfig
    net: NetConfig
    image_shape: tuple[int, ...]
    num_classes: int
    held_out: int
    in_memory: bool
    series: str | None = None
    encoders: Encoders | None = None


@dataclass(frozen=True)
class EvaluationContext:
    """The input of an evaluation, and methods to train nets.

    Attributes:
      sets: distilled sets (images (N, H, W, C), labels (N, K)) by name. "distilled" is the one that
        is exported; "distilled_last", where present, is that of the last outer step.
      real: real images.
      ipc: distilled images per class; they are ordered by class.
      seed: the run's seed; draw with `core.keys.key_for`.
      config: the settings of evaluations.
      evaluator: trains the default evaluation net.
      finished: accuracies stored by an earlier attempt.
      net: the default evaluation net.
      preprocessing: from pixels to net inputs and back.
      selected_by: how "distilled" was chosen: "held-out", "last step", or "" if unknown.
      selected_step: its outer step; None: unknown.
      parts: the results of the runs of a series, in order. For a series of classes "distilled" is
        all their images, for one of chunks that of the first.
      encoders: the nets of `POOL_WEIGHTS`; None where the recipe names none.
    """

    sets: Mapping[str, DistilledSet]
    real: RealData
    ipc: int
    seed: int
    config: EvaluationConfig
    evaluator: Evaluator
    finished: FinishedNets
    net: NetConfig
    preprocessing: Preprocessing | None = None
    selected_by: str = ""
    selected_step: int | None = None
    parts: tuple[Part, ...] = ()
    encoders: Encoders | None = None
    _prefix: str = ""
    _used: set[str] = field(default_factory=set)
    _evaluators: dict[str, Evaluator] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    def named(self, evaluation: str) -> "EvaluationContext":
        """The same context, whose stored accuracies belong to `evaluation`."""
        return replace(self, _prefix=f"{evaluation}/")

    def shared(self, version: str) -> "EvaluationContext":
        """The same context for measurements that several evaluations make alike.

        A net with such a key is trained once. The same key must always be given the same
        arguments.

        Args:
          version: of the code that makes them; stored values of another one are not used.
        """
        return replace(self, _prefix=f"shared@{version}/", _used=set())

    @property
    def distilled(self) -> DistilledSet:
        """The set that is exported."""
        return self.sets["distilled"]

    @property
    def steps(self) -> int:
        """The default number of Adam steps."""
        return self.config.steps_for(len(self.distilled.images))

    def score(
        self,
        key: str,
        labelled: Labelled,
        *,
        rows: Rows | None = None,
        **training: Unpack[Training],
    ) -> Score:
        """Accuracy of fresh nets trained on a labelled set, mean and spread over the nets.

        A net that an earlier attempt has finished is not trained again.

        Args:
          key: names what is measured. The accuracies are stored under it, so no other call of the
            same evaluation may use it.
          labelled: images (n, H, W, C) as net inputs and labels (n, K), or a function that gives
            them for net number 0, 1, ...
          rows: images to test on, as float32 net inputs, with integer labels; None: the test
            images, or with `held_out` the held-out images.
          **training: see `Training`.

        Raises:
          InputError: `net` cannot be built.
          Preempted: a stop was requested.
          RunError: `key` was used before.
        """
        if rows is None:
            rows = self._held_out() if training.get("held_out") else self.real.test
        tested = rows
        values = self.measure(key, labelled, lambda net: net.accuracy(tested), **training)
        return score([(top1, top5) for top1, top5 in values], self.real.num_classes)

    def measure(
        self,
        key: str,
        labelled: Labelled,
        test: Callable[[TrainedNet], Sequence[float]],
        *,
        at: Sequence[int] = (),
        **training: Unpack[Training],
    ) -> list[tuple[float, ...]]:
        """Like `score`, for any measurement of a trained net.

        Args:
          key: see `score`.
          labelled: see `score`.
          test: takes a trained net and returns numbers, always the same count.
          at: after how many Adam steps `test` is called; nothing: after the last one.
          **training: see `Training`.

        Returns:
          What `test` returned for each net; with `at` the numbers of one call after the other.
        """
        if self._prefix + key in self._used:
            raise RunError(f"{self._prefix}{key}: this key was used before in the evaluation")
        self._used.add(self._prefix + key)
        evaluator, fit = self._protocol(training)
        return evaluator.measure(
            self._prefix + key,
            fit,
            training.get("nets", self.config.nets),
            _by_net(labelled),
            test,
            self.finished,
            at,
        )

    def stored(
        self, key: str, number: int, compute: Callable[[], Sequence[float]]
    ) -> tuple[float, ...]:
        """What `compute` returns, once: for measurements without a training; see `measure`."""
        return self.finished.once(self._prefix + key, number, compute)

    def train(
        self, key: str, labelled: Labelled, number: int = 0, **training: Unpack[Training]
    ) -> TrainedNet:
        """One trained net, such as a teacher. It is not stored: a restart trains it again.

        Args:
          key: shown in the progress bar.
          labelled: see `score`.
          number: the number of the net; it decides its random draws.
          **training: see `Training`; `nets` is not used.
        """
        evaluator, fit = self._protocol(training)
        return evaluator.train(key, fit, _by_net(labelled)(number), number)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` has returned for this name, in any evaluation of this attempt at the run."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _protocol(self, training: Training) -> tuple[Evaluator, FitConfig]:
        evaluator = self._evaluator(training.get("net"))
        fit = FitConfig(
            steps=training.get("steps", self.steps),
            batch=self.config.batch,
            learning_rate=training.get("learning_rate", self.config.learning_rate),
            constant=training.get("constant", False),
            augment=training.get("augment", evaluator.augment),
            draws=PROBE_DRAWS if training.get("held_out") else FINAL_DRAWS,
            dtype=self.config.dtype,
        )
        return evaluator, fit

    def _held_out(self) -> Rows:
        if self.real.held_out is None or not len(self.real.held_out):
            raise ValueError("the data set has no held-out images")
        return self.real.held_out

    def _evaluator(self, net: NetConfig | None) -> Evaluator:
        if net is None or net == self.net:
            return self.evaluator
        name = json.dumps(asdict(net), sort_keys=True)
        if name not in self._evaluators:
            shape = tuple(self.distilled.images.shape[1:])
            module = build_net(net, self.real.num_classes, shape)
            self._evaluators[name] = self.evaluator.with_net(module)
        return self._evaluators[name]


def _by_net(labelled: Labelled) -> Callable[[int], DistilledSet]:
    return (lambda net: labelled) if isinstance(labelled, DistilledSet) else labelled


class Evaluation(Protocol):
    """The interface of an evaluation: a class that is constructed without arguments.

    It may also have a method `check(task: Task) -> None` that raises InputError if the evaluation
    cannot be done. It is called before the run starts. One that evaluates the runs of a series has
    `series`, "classes" or "chunks".
    """

    @property
    def title(self) -> str:
        """The heading of its rows, such as "test accuracy"; a plain attribute is enough."""

    def run(self, context: EvaluationContext) -> Iterable[Measurement]:
        """Yields the rows of the result, in the order of the table.

        With several processes every process runs it, and must make the same calls to `context`.
        """
