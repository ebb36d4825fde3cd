"""A training loop for any jitted `step(state, batch) -> (state, metrics)`.

The order within one turn is fixed: probe, save, *then* draw the batch, step, and log the metrics
of the step before (so that fetching them never makes the device wait). A checkpoint at step s is
therefore the state before batch s, after the probe at s.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from frepo_scale.core.checks import check_float, check_int
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.metrics import MetricWriter
from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.ops.progress import Progress
from frepo_scale.parallel.runtime import agree

State = Any
Metrics = dict[str, jax.Array]

_IN_FLIGHT = 2  # steps dispatched ahead: enough to hide the host, few enough to stop soon


@dataclass(frozen=True)
class LoopConfig:
    """Periods, in steps.

    Attributes:
      log_every: metrics are fetched and written.
      probe_every: the distilled set is evaluated on the held-out part; also before the first and
        after the last step.
      save_every: a checkpoint is written; also after the last step.
      profile_at: steps after a start or restart at which a profile of a few is taken; 0: none.
      save_minutes: a checkpoint is also written this long after the last one.
      keep_every: checkpoints at multiples of this are never removed; 0: only the newest are kept.
      watchdog_minutes: without a sign of life for so long the process ends itself; 0: never.
      chance_probes: so many probes in a row at chance end the run; 0: none do.
    """

    log_every: int = field(default=100, metadata={"operational": True})
    probe_every: int = 10_000
    save_every: int = field(default=1_000, metadata={"operational": True})
    profile_at: int = field(default=10, metadata={"operational": True})
    save_minutes: float = field(default=10.0, metadata={"operational": True})
    keep_every: int = field(default=0, metadata={"operational": True})
    watchdog_minutes: float = field(default=15.0, metadata={"operational": True})
    chance_probes: int = field(default=5, metadata={"operational": True})

    def __post_init__(self) -> None:
        """Refuses periods below one step."""
        check_int("LOG_EVERY", self.log_every, low=1)
        check_int("PROBE_EVERY", self.probe_every, low=1)
        check_int("SAVE_EVERY", self.save_every, low=1)
        check_int("PROFILE_AT", self.profile_at, low=0)
        check_float("SAVE_MINUTES", self.save_minutes, low=0.0, open_low=True)
        check_int("KEEP_EVERY", self.keep_every, low=0)
        check_float("WATCHDOG_MINUTES", self.watchdog_minutes, low=0.0)
        check_int("CHANCE_PROBES", self.chance_probes, low=0)


class Job(Protocol):
    """What the loop asks of the job it runs."""

    def check(self, state: State) -> None:
        """Raises RunError if the state is not worth going on with."""

    def probe(self, state: State, step: int) -> tuple[State, Mapping[str, float]]:
        """Evaluates; returns the state to go on with and what to log. May raise Preempted."""

    def save(self, state: State, step: int, probed: int) -> None:
        """Saves the state; `probed` is the last step whose probe is in it."""

    def after_step(self, step: int) -> None:
        """Called once `step` steps are dispatched; must not wait for the device."""


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: the state, its step, and whether a stop was asked for."""

    state: State
    step: int
    stopped: bool


def train(
    state: State,
    *,
    start: int,
    probed: int,
    steps: int,
    config: LoopConfig,
    step: Callable[[State, Any], tuple[State, Metrics]],
    batches: Iterator[Any],
    images_per_step: int,
    flops_per_step: float,
    job: Job,
    writer: MetricWriter,
    preemption: Preemption,
    ledger: Ledger,
) -> Outcome:
    """Runs from `start` to `steps` steps done, or until a stop is asked for.

    Args:
      state: donated to the first step.
      start: steps already done.
      probed: the step of the last probe in `state`, -1 for none.
      steps: steps to reach.
      config: periods.
      step: one jitted step.
      batches: the next one is batch `start`.
      images_per_step: in a batch, for the metric.
      flops_per_step: operations of one device, for the metric.
      job: probe, save and check.
      writer: receives metrics.
      preemption: polled once per step.
      ledger: told where the time goes.
    """
    pending: tuple[int, Metrics] | None = None
    in_flight: deque[jax.Array] = deque()
    saved = start if start else -1
    shown: dict[str, float] = {}  # of the last probe
    speed, saving = _Speed(), _Saving(config, start)

    with Progress("distil", steps, start) as progress:

        def log() -> None:
            nonlocal pending
            if pending is None:
                return
            at, metrics = pending
            pending = None
            row = {name: float(value) for name, value in jax.device_get(metrics).items()}
            row |= speed.since_mark(at, images_per_step)
            row["flops_per_second_per_device"] = flops_per_step * row["steps_per_second"]
            row["eta_seconds"] = (steps - at) / max(row["steps_per_second"], 1e-9)
            row["goodput"] = ledger.goodput()
            writer.write_scalars(at, row | ledger.totals())
            progress.note(
                loss=row["loss"], target_accuracy=row["target_accuracy"], **shown, **_rates(row)
            )

        for done in range(start, steps + 1):
            last = done == steps
            stop = preemption.requested
            due_probe = (done % config.probe_every == 0 or last) and done != probed
            due_save = (last or (done > 0 and saving.due(done))) and done != saved
            if due_probe or due_save or stop:
                log()
                job.check(state)
            if due_probe and not stop:
                try:
                    with ledger.during("probe"):
                        state, row = job.probe(state, done)
                    if row:
                        writer.write_scalars(done, row)
                        shown = {k: v for k, v in row.items() if k == "probe_accuracy"}
                    probed = done
                except Preempted:
                    stop = True  # the probe is repeated after the restart
            if (due_save or stop) and done != saved:
                writer.flush()
                with ledger.during("checkpoint"):
                    job.save(state, done, probed)
                ledger.saved(done)
                saving.mark(done)
                saved = done
            if stop or last:
                break
            if due_probe or due_save:
                speed.mark(done)

            with speed.waiting(), ledger.during("data"):
                batch = next(batches)
            with ledger.during("compile" if done == start else "step"):
                state, metrics = step(state, batch)
                del batch  # freed when the step is done with it, not when the next one is there
                log()
                if (done + 1) % config.log_every == 0:
                    pending = (done + 1, metrics)
                # Waiting is not fetching: the device always has the next step queued.
                in_flight.append(metrics["loss"])
                if done == start:
                    metrics["loss"].block_until_ready()
                    speed.mark(done + 1)  # compilation is not speed
                elif len(in_flight) > _IN_FLIGHT:
                    in_flight.popleft().block_until_ready()
            job.after_step(done + 1)
            progress.advance()
    writer.flush()
    return Outcome(state, done, stopped=stop)


def _rates(row: Metrics | dict[str, float]) -> dict[str, float]:
    """What a line of a log says beside what was learned; the bar knows steps/s and time left."""
    names = ("images_per_second", "input_wait_fraction", "flops_per_second_per_device", "goodput")
    return {name: float(row[name]) for name in names}


class _Saving:
    """When a checkpoint is due: by steps, and by process 0's clock.

    Processes agree when to look at the clock next, so that few steps wait for their word: in half
    of the steps that fit until it is time, at most `log_every`.
    """

    def __init__(self, config: LoopConfig, start: int) -> None:
        self._config = config
        self.mark(start)

    def mark(self, done: int) -> None:
        """A checkpoint was written after `done` steps."""
        self._step, self._time, self._look_at = done, time.monotonic(), done + 1

    def due(self, done: int) -> bool:
        """Whether one is due after `done` steps; collective where the clock is looked at."""
        config = self._config
        if done % config.save_every == 0:
            return True
        if done != self._look_at:
            return False
        passed = time.monotonic() - self._time
        left = 60.0 * config.save_minutes - passed
        ahead = left / max(passed, 1e-9) * (done - self._step) / 2
        wait = agree(max(1, int(min(ahead, config.log_every))) if left > 0 else 0)
        self._look_at = done + wait
        return wait == 0


class _Speed:
    """Rates between two marks, and how much of the time was spent waiting for batches."""

    def __init__(self) -> None:
        self.mark(0)

    def mark(self, step: int) -> None:
        """Counting starts anew at `step`."""
        self._step, self._time, self._waited = step, time.monotonic(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the loop waits for its input."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    def since_mark(self, step: int, images_per_step: int) -> dict[str, float]:
        """What was seen since the mark, which moves here; a rate of 0 where nothing was done."""
        seconds = max(time.monotonic() - self._time, 1e-9)
        rate = max((step - self._step) / seconds, 0.0)
        waited = self._waited / seconds
        self.mark(step)
        return {
            "steps_per_second": rate,
            "images_per_second": rate * images_per_step,
            "input_wait_fraction": waited,
        }
