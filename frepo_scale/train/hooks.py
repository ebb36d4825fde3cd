"""The actions of the training loop besides its steps: log, probe, save.

Each hook is a small object with a period. All are optional.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.metrics import MetricWriter
from frepo_scale.ops.progress import Progress
from frepo_scale.parallel.runtime import agree, is_first

State = Any
Metrics = dict[str, jax.Array]
_LOG_LINE = ("images_per_second", "input_wait_fraction", "flops_per_second_per_device", "goodput")


class Log:
    """Writes metrics, one row every `every` steps.

    The metrics of a step are fetched after the next step is dispatched, so the device never waits
    for the host.
    """

    def __init__(
        self,
        every: int,
        writer: MetricWriter,
        progress: Progress,
        ledger: Ledger,
        *,
        steps: int,
        images_per_step: int,
        flops_per_step: float,
        shown: Sequence[str],
        warning: Callable[[Mapping[str, float]], str] = lambda row: "",
    ) -> None:
        """Writes nothing yet.

        Args:
          every: steps between rows.
          writer: receives the rows.
          progress: the progress bar.
          ledger: gives the goodput and the time by category.
          steps: the last step of the run, for the time left.
          images_per_step: target images of an outer step.
          flops_per_step: operations of one device per outer step.
          shown: metrics that the progress bar shows.
          warning: a line about a row for the user, or an empty one; the first is printed.
        """
        self.every, self._writer, self._progress = every, writer, progress
        self._ledger, self._steps, self._shown = ledger, steps, tuple(shown)
        self._images_per_step, self._flops_per_step = images_per_step, flops_per_step
        self._pending: tuple[int, Metrics] | None = None
        self._probe: dict[str, float] = {}
        self._warning, self._warned = warning, False
        self.restart(0)

    def restart(self, step: int) -> None:
        """Restarts the rates at `step` and now, so that they exclude probes and saves."""
        self._from_step, self._from_time, self._waited = step, time.monotonic(), 0.0

    @contextmanager
    def waiting_for_input(self) -> Iterator[None]:
        """A context in which the loop waits for its next batch."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def step(self, done: int, metrics: Metrics, length: int = 1) -> None:
        """Called when step `done`, the last of a call of `length` steps, is dispatched."""
        self.flush()
        self._progress.advance(length)
        if done % self.every == 0:
            self._pending = (done, metrics)

    def probed(self, step: int, row: Mapping[str, float]) -> None:
        """Writes the row of a probe."""
        if row:
            self._writer.write_scalars(step, row)
            self._probe = {k: v for k, v in row.items() if k == "probe_accuracy"}

    def flush(self) -> None:
        """Writes the row that waits to be fetched, if there is one."""
        if self._pending is None:
            return
        (at, metrics), self._pending = self._pending, None
        row = {name: float(value) for name, value in jax.device_get(metrics).items()}
        row |= self._rates(at)
        row["goodput"] = self._ledger.goodput()
        self._writer.write_scalars(at, row | self._ledger.totals())
        self._warn(at, row)
        shown = {name: row[name] for name in self._shown if name in row}
        self._progress.note(**shown, **self._probe, **{name: row[name] for name in _LOG_LINE})

    def _warn(self, step: int, row: Mapping[str, float]) -> None:
        if self._warned or not is_first():
            return
        if line := self._warning(row):
            self._progress.line(f"frepo-scale: step {step}: {line}")
            self._warned = True

    def sync(self) -> None:
        """Flushes the writer."""
        self._writer.flush()

    def _rates(self, step: int) -> dict[str, float]:
        """Rates since `restart`, which is called; 0 where nothing was done."""
        seconds = max(time.monotonic() - self._from_time, 1e-9)
        rate = max((step - self._from_step) / seconds, 0.0)
        waited = self._waited / seconds
        self.restart(step)
        return {
            "steps_per_second": rate,
            "images_per_second": rate * self._images_per_step,
            "input_wait_fraction": waited,
            "flops_per_second_per_device": self._flops_per_step * rate,
            "eta_seconds": (self._steps - step) / max(rate, 1e-9),
        }


@dataclass
class Probe:
    """Evaluates the distilled set every `every` steps, before the first and after the last one.

    Attributes:
      every: steps between probes.
      run: `(state, step) -> (state, row)`; may raise Preempted.
      step: the step of the last probe, -1 for none.
    """

    every: int
    run: Callable[[State, int], tuple[State, Mapping[str, float]]]
    step: int = -1

    def due(self, done: int, last: bool) -> bool:
        """Whether a probe is due after `done` steps."""
        return (done % self.every == 0 or last) and done != self.step


class Save:
    """Writes a checkpoint every `every` steps, every `minutes`, and after the last step.

    Processes agree when to read the clock of process 0 next, so that few steps wait for it:
    after half of the steps that fit into the time left, at most `clock_every`.
    """

    def __init__(
        self,
        every: int,
        minutes: float,
        run: Callable[[State, int, int], None],
        *,
        start: int,
        clock_every: int,
        met: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Saves nothing yet.

        Args:
          every: steps between checkpoints.
          minutes: longest time between checkpoints.
          run: `(state, step, step of the last probe)`, saves.
          start: the step of the checkpoint that the run was restored from; 0 for none.
          clock_every: most steps between two readings of the clock.
          met: called with the step after each reading, at which all processes have met.
        """
        self.every, self._minutes, self._clock_every = every, minutes, clock_every
        self._run, self._met = run, met
        self.step = start if start else -1
        self._restart(start)

    def run(self, state: State, step: int, probed: int) -> None:
        """Saves the state after `step` steps."""
        self._run(state, step, probed)
        self.step = step
        self._restart(step)

    def due(self, done: int, last: bool) -> bool:
        """Whether a checkpoint is due after `done` steps; collective when the clock decides."""
        return (last or (done > 0 and self._period_over(done))) and done != self.step

    def _restart(self, done: int) -> None:
        self._from_step, self._from_time, self._clock_at = done, time.monotonic(), done + 1

    def _period_over(self, done: int) -> bool:
        if done % self.every == 0:
            return True
        if done < self._clock_at:
            return False
        passed = time.monotonic() - self._from_time
        left = 60.0 * self._minutes - passed
        ahead = left / max(passed, 1e-9) * (done - self._from_step) / 2
        wait = agree(max(1, int(min(ahead, self._clock_every))) if left > 0 else 0)
        self._met(done)
        self._clock_at = done + wait
        return wait == 0
