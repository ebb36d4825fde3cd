"""The evaluation seam: what an evaluation is given, and what it returns.

An evaluation is one class in one module. It trains fresh nets on labelled sets of images and yields
named scores; `result.json`, the printed table and `report.html` take their rows from it. `accuracy`
is the example to read; docs/how-to/evaluation.md shows a complete one.

Legend: N distilled images, H W height and width in pixels, C channels, K classes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple, Protocol

from frepo_scale.core.errors import RunError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import FINAL_DRAWS, PROBE_DRAWS, FitConfig, TrainedNet
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator, Score, score
from frepo_scale.models.registry import NetConfig, build_net

# A labelled set, or a function from the number of a net to the set that net is trained on.
Labelled = DistilledSet | Callable[[int], DistilledSet]


class Measurement(NamedTuple):
    """One row of a result.

    Attributes:
      key: names the row in `result.json`, such as "random_real"; unique within its evaluation.
      label: names it in the table and the report, such as "random real images".
      score: what was measured.
    """

    key: str
    label: str
    score: Score


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


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluation may use.

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
    _prefix: str = ""
    _used: set[str] = field(default_factory=set)
    _evaluators: dict[str, Evaluator] = field(default_factory=dict)

    def named(self, evaluation: str) -> "EvaluationContext":
        """The same context, whose stored accuracies belong to `evaluation`."""
        return replace(self, _prefix=f"{evaluation}/")

    @property
    def distilled(self) -> DistilledSet:
        """The set that is exported."""
        return self.sets["distilled"]

    def score(
        self,
        key: str,
        labelled: Labelled,
        *,
        steps: int | None = None,
        learning_rate: float | None = None,
        net: NetConfig | None = None,
        augment: AugmentConfig | None = None,
        rows: Rows | None = None,
        held_out: bool = False,
    ) -> Score:
        """Accuracy of fresh nets trained on a labelled set, mean and spread over the nets.

        A net that an earlier attempt has finished is not trained again.

        Args:
          key: names what is measured. The accuracies are stored under it, so no other call of the
            same evaluation may use it.
          labelled: images (n, H, W, C) as net inputs and labels (n, K), or a function that gives
            them for net number 0, 1, ...
          steps: Adam steps; None: those of the protocol for the distilled set (`EVAL_STEPS`).
          learning_rate: Adam's; None: `EVAL_LEARNING_RATE`.
          net: the net; None: the default evaluation net.
          augment: the augmentation; None: the default of the data set.
          rows: images to test on, as float32 net inputs, with integer labels; None: the test
            images.
          held_out: test on the held-out images instead, with other random draws: for choices, which
            must not see the test images.

        Raises:
          InputError: `net` cannot be built.
          Preempted: a stop was requested.
          RunError: `key` was used before.
        """
        tested = rows if rows is not None else self._held_out() if held_out else self.real.test
        values = self.measure(
            key,
            labelled,
            lambda net: net.accuracy(tested),
            steps=steps,
            learning_rate=learning_rate,
            net=net,
            augment=augment,
            held_out=held_out,
        )
        return score([(top1, top5) for top1, top5 in values], self.real.num_classes)

    def measure(
        self,
        key: str,
        labelled: Labelled,
        test: Callable[[TrainedNet], Sequence[float]],
        *,
        steps: int | None = None,
        learning_rate: float | None = None,
        net: NetConfig | None = None,
        augment: AugmentConfig | None = None,
        held_out: bool = False,
    ) -> list[tuple[float, ...]]:
        """Like `score`, for any measurement of a trained net.

        Args:
          key: see `score`.
          labelled: see `score`.
          test: takes a trained net and returns numbers, always the same count.
          steps: see `score`.
          learning_rate: see `score`.
          net: see `score`.
          augment: see `score`.
          held_out: whether the random draws are those for choices; see `score`.

        Returns:
          What `test` returned for each net.
        """
        if self._prefix + key in self._used:
            raise RunError(f"{self._prefix}{key}: this key was used before in the evaluation")
        self._used.add(self._prefix + key)
        evaluator = self._evaluator(net)
        fit = FitConfig(
            steps=steps or self.config.steps_for(len(self.distilled.images)),
            batch=self.config.batch,
            learning_rate=learning_rate or self.config.learning_rate,
            constant=False,
            augment=augment or evaluator.augment,
            draws=PROBE_DRAWS if held_out else FINAL_DRAWS,
        )
        return evaluator.measure(
            self._prefix + key,
            fit,
            self.config.nets,
            (lambda net: labelled) if isinstance(labelled, DistilledSet) else labelled,
            test,
            self.finished,
        )

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


class Evaluation(Protocol):
    """What `EVALUATIONS` names: a class that is constructed without arguments."""

    @property
    def title(self) -> str:
        """Heads its rows in the table, such as "test accuracy"; a plain attribute will do."""

    def run(self, context: EvaluationContext) -> Iterable[Measurement]:
        """Yields the rows of the result, in the order of the table.

        With several processes every process runs it, and must make the same calls to `context`.
        """
