"""A training loop for any jitted `step(state, batch) -> (state, metrics)`.

The order within one turn is fixed: probe, save, *then* draw the batch, step, and log the metrics
of the step before (so that fetching them never makes the device wait). A checkpoint at step s is
therefore the state before batch s, after the probe at s.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from frepo_scale.core.checks import check_bool, check_int
from frepo_scale.ops.metrics import MetricWriter
from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.ops.progress import Progress

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
      profile: whether a profile of a few steps is taken after the start.
    """

    log_every: int = field(default=100, metadata={"operational": True})
    probe_every: int = 10_000
    save_every: int = field(default=1_000, metadata={"operational": True})
    profile: bool = field(default=True, metadata={"operational": True})

    def __post_init__(self) -> None:
        """Refuses periods below one step."""
        check_int("LOG_EVERY", self.log_every, low=1)
        check_int("PROBE_EVERY", self.probe_every, low=1)
        check_int("SAVE_EVERY", self.save_every, low=1)
        check_bool("PROFILE", self.profile)


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
    job: Job,
    writer: MetricWriter,
    preemption: Preemption,
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
      job: probe, save and check.
      writer: receives metrics.
      preemption: polled once per step.
    """
    pending: tuple[int, Metrics] | None = None
    in_flight: deque[jax.Array] = deque()
    saved = start if start else -1
    speed = _Speed()

    with Progress("distil", steps, start) as progress:

        def log() -> None:
            nonlocal pending
            if pending is None:
                return
            at, metrics = pending
            pending = None
            row = {name: float(value) for name, value in jax.device_get(metrics).items()}
            row["steps_per_second"] = speed.since_mark(at)
            writer.write_scalars(at, row)
            progress.note(loss=row["loss"], target_accuracy=row["target_accuracy"])

        for done in range(start, steps + 1):
            last = done == steps
            stop = preemption.requested
            due_probe = (done % config.probe_every == 0 or last) and done != probed
            due_save = (last or (done % config.save_every == 0 and done > 0)) and done != saved
            if due_probe or due_save or stop:
                log()
                job.check(state)
            if due_probe and not stop:
                try:
                    state, row = job.probe(state, done)
                    if row:
                        writer.write_scalars(done, row)
                    probed = done
                except Preempted:
                    stop = True  # the probe is repeated after the restart
            if (due_save or stop) and done != saved:
                writer.flush()
                job.save(state, done, probed)
                saved = done
            if stop or last:
                break
            if due_probe or due_save:
                speed.mark(done)

            batch = next(batches)
            state, metrics = step(state, batch)
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


class _Speed:
    """Steps per second between two marks."""

    def __init__(self) -> None:
        self._step, self._time = 0, time.monotonic()

    def mark(self, step: int) -> None:
        """Counting starts anew at `step`."""
        self._step, self._time = step, time.monotonic()

    def since_mark(self, step: int) -> float:
        """Steps per second since the mark, which moves here; 0 where nothing was done."""
        now = time.monotonic()
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self.mark(step)
        return max(rate, 0.0)
