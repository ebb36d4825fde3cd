"""The training loop. It knows no algorithm, only a jitted `step(state, batch)`.

The order within one iteration is fixed: probe, save, *then* draw the batch, step, and log the
metrics of the step before. A checkpoint at step s is therefore the state before batch s, after the
probe at s. Several steps may be one call of `step`, see `train.calls`; what happens between steps
then happens between calls, at the same steps.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from frepo_scale.core.errors import Preempted
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.preemption import Preemption
from frepo_scale.train.calls import Calls
from frepo_scale.train.hooks import Log, Metrics, Probe, Save, State
from frepo_scale.train.stragglers import Stragglers

_IN_FLIGHT = 2  # calls dispatched ahead: enough to hide the host, few enough to stop soon


@dataclass(frozen=True)
class Hooks:
    """The actions of the loop besides its steps.

    Attributes:
      log: writes metrics.
      check: raises RunError if the run must not continue with the state; called before each probe
        and save.
      probe: evaluates the set; None: never.
      save: writes checkpoints; None: never.
      compiling: a context around the first step and a probe before it, which may compile for long;
        there is nothing to save yet.
      after_step: called after each call with the number of steps dispatched; must not wait for the
        device.
      stragglers: measures the time of this process per step; None: nothing does.
    """

    log: Log
    check: Callable[[State], None]
    probe: Probe | None = None
    save: Save | None = None
    after_step: tuple[Callable[[int], None], ...] = ()
    compiling: Callable[[], AbstractContextManager[None]] = nullcontext
    stragglers: Stragglers | None = None


class Outcome(NamedTuple):
    """How the loop ended: the state, its step, and whether a stop was requested."""

    state: State
    step: int
    stopped: bool


def train(
    state: State,
    step: Callable[[State, Any], tuple[State, Metrics]],
    batches: Iterator[Any],
    hooks: Hooks,
    calls: Calls,
    *,
    start: int,
    steps: int,
    preemption: Preemption,
    ledger: Ledger,
) -> Outcome:
    """Runs from `start` to `steps` outer steps done, or until a stop is requested.

    Args:
      state, step: the state, donated to the first call; one jitted call.
      batches, hooks: the next one is batch `start`; what else happens.
      calls: how many steps a call does.
      start, steps, preemption, ledger: outer steps done and to reach; polled; accounts for time.
    """
    log, probe, save, done = hooks.log, hooks.probe, hooks.save, start
    in_flight: deque[tuple[jax.Array, int]] = deque()  # loss and steps of calls
    while True:
        last, stop = done == steps, preemption.requested
        probing = probe is not None and probe.due(done, last)
        saving = save is not None and save.due(done, last)
        if probing or saving or stop:
            log.flush()
            hooks.check(state)
        if probe is not None and probing and not stop:
            try:
                with ledger.during("probe"), hooks.compiling() if done == start else nullcontext():
                    state, row = probe.run(state, done)
                log.probed(done, row)
                probe.step = done
            except Preempted:
                stop = True  # the probe is repeated after the restart
        if save is not None and (saving or stop) and done != save.step:
            _save(save, state, done, probe, log, ledger)
        if stop or last:
            log.sync()
            return Outcome(state, done, stopped=stop)
        if probing or saving:
            log.restart(done)
            calls.restart()
        first, length = done == start, calls.length(done)
        # Until the first result is there: then every process has compiled the step.
        with _marked(done), hooks.compiling() if first else nullcontext():
            state, metrics = _dispatched(step, state, batches, hooks, calls, ledger, length, first)
            with ledger.during("compile" if first else "step"):
                done += length
                log.step(done, metrics, length)
                _wait(in_flight, (metrics["loss"], length), calls, first)
                if first:
                    log.restart(done)  # the rates exclude compilation
        for action in hooks.after_step:
            action(done)


def _marked(step: int) -> AbstractContextManager[None]:
    """The mark by which profilers find the calls and measure them.

    It includes the wait for an earlier call: in the steady state its duration is that of a call.
    """
    return jax.profiler.StepTraceAnnotation("outer_step", step_num=step)


def _dispatched(
    step: Callable[[State, Any], tuple[State, Metrics]],
    state: State,
    batches: Iterator[Any],
    hooks: Hooks,
    calls: Calls,
    ledger: Ledger,
    length: int,
    first: bool,
) -> tuple[State, Metrics]:
    """Draws the batch of a call and dispatches the call; the batch is freed after its steps."""
    timed = None if first else hooks.stragglers
    if timed is not None:
        timed.begin()
    with hooks.log.waiting_for_input(), ledger.during("data"):
        batch = calls.draw(batches, length)
    with ledger.during("compile" if first else "step"):
        state, metrics = step(state, batch)
    if timed is not None:
        timed.end(length)
    return state, metrics


def _wait(
    in_flight: deque[tuple[jax.Array, int]],
    newest: tuple[jax.Array, int],
    calls: Calls,
    first: bool,
) -> None:
    """Waits until few enough calls are in flight, without fetching anything from the device.

    The device always has the next call queued, but for the first one, which is compiled.
    """
    in_flight.append(newest)
    if first:
        newest[0].block_until_ready()
    elif len(in_flight) > _IN_FLIGHT:
        loss, length = in_flight.popleft()
        loss.block_until_ready()
        calls.finished(length)


def _save(
    save: Save, state: State, done: int, probe: Probe | None, log: Log, ledger: Ledger
) -> None:
    """Writes a checkpoint after `done` steps."""
    log.sync()  # rows are on disk before the checkpoint that follows them
    with ledger.during("checkpoint"):
        save.run(state, done, -1 if probe is None else probe.step)
    ledger.saving(done)
