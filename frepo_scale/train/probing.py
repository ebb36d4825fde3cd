"""Probes: scores of the distilled set on held-out images; the best set is stored."""

from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows
from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.state import TrainState, make_keep_as_best, unpadded
from frepo_scale.evaluate.protocol import Evaluator, is_guessing
from frepo_scale.parallel.runtime import agree


class HeldOutProbe:
    """Scores the set on the held-out images, keeps the best one, ends a run at chance level.

    Attributes:
      at_chance: probes in a row that were not better than guessing.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        evaluator: Evaluator,
        held_out: Rows,
        num_classes: int,
        *,
        chance_probes: int,
        at_chance: int,
        give_up: Callable[[str], NoReturn],
        show: Callable[[DistilledSet, int], None],
    ) -> None:
        """Evaluates nothing yet.

        Args:
          algorithm: makes the sets.
          evaluator: trains and tests nets.
          held_out: net inputs and labels; may be empty, then nothing is scored.
          num_classes: how many classes the held-out images have.
          chance_probes: the run ends after this many probes in a row at chance level; 0: never.
          at_chance: probes in a row at chance level so far.
          give_up: raises a RunError with the text that it is called with.
          show: called with every probed set (N rows in host memory) and its step.
        """
        self._algorithm, self._evaluator = algorithm, evaluator
        self._held_out, self._num_classes = held_out, num_classes
        self._chance_probes, self.at_chance = chance_probes, at_chance
        self._give_up, self._show = give_up, show
        self._keep: Callable[[TrainState, float], TrainState] | None = None

    def __call__(self, state: TrainState, step: int) -> tuple[TrainState, Mapping[str, float]]:
        """The state, with the best set updated, and the metrics of the probe.

        Raises:
          Preempted: a stop was requested.
        """
        size = self._algorithm.problem.size
        distilled = unpadded(self._algorithm.distilled(state.algorithm), size)
        self._show(distilled, step)
        if not len(self._held_out):
            return state, {}
        score = self._evaluator.probe(distilled, self._held_out, self._num_classes)
        # Of process 0: machines of different kinds may round differently, states may not differ.
        # As the state stores it: a tie must not be decided by the rounding to float32.
        accuracy = float(np.float32(agree(score.mean)))
        self._check_chance(step, accuracy)
        if accuracy > float(state.best.score):
            if self._keep is None:
                self._keep = make_keep_as_best(self._algorithm, state)
            state = self._keep(state, accuracy)
        return state, {"probe_accuracy": accuracy, "probe_accuracy_std": score.std}

    def _check_chance(self, step: int, accuracy: float) -> None:
        guessing = is_guessing(accuracy, self._num_classes, len(self._held_out))
        self.at_chance = self.at_chance + 1 if guessing else 0
        if self._chance_probes and self.at_chance >= self._chance_probes:
            self._give_up(
                f"the probe accuracy {accuracy:.4f} at step {step} is at chance level, as in"
                f" {self._chance_probes} probes in a row (--gin.CHANCE_PROBES)"
            )
