"""Hooks, writer, step and data for the training loop that record every call."""

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.errors import RunError
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress
from frepo_scale.train.calls import calls_of
from frepo_scale.train.config import LoopConfig
from frepo_scale.train.hooks import Log, Probe, Save
from frepo_scale.train.loop import Hooks, Outcome, train

Event = tuple[Any, ...]
RATES = {
    "steps_per_second",
    "images_per_second",
    "input_wait_fraction",
    "flops_per_second_per_device",
    "eta_seconds",
    "goodput",
    *Ledger(None).totals(),
}


@partial(jax.jit, donate_argnums=0)
def jitted(state: dict[str, jax.Array], batch: jax.Array) -> tuple[dict[str, jax.Array], Any]:
    step = state["step"] + 1
    state = {**state, "hash": state["hash"] * 31 + batch.astype(jnp.uint32), "step": step}
    return state, {"loss": step.astype(jnp.float32) / 8, "target_accuracy": jnp.float32(0.5)}


def start_state() -> dict[str, jax.Array]:
    return {"hash": jnp.uint32(1), "step": jnp.int32(0), "probes": jnp.uint32(0)}


def host(state: Any) -> dict[str, int]:
    return {k: int(v) for k, v in state.items()}


@dataclass
class Run:
    """Hooks, writer, step and data that record every call in `events`.

    Signals arrive after the step, in the probe or in the save of `signal_at`.
    """

    events: list[Event] = field(default_factory=list)
    checkpoints: dict[int, tuple[Any, int]] = field(default_factory=dict)
    signal_at: tuple[str, int] | None = None
    bad_from: int | None = None
    calls: list[int] = field(default_factory=list)
    warning: Callable[[Mapping[str, float]], str] = lambda row: ""
    preemption: Preemption = field(default_factory=Preemption)
    stragglers: Any = None

    def _signal(self, where: str, step: int) -> None:
        if self.signal_at == (where, step):
            self.preemption._note(signal.SIGTERM, None)

    # Hooks
    def check(self, state: Any) -> None:
        at = int(state["step"])
        self.events.append(("check", at))
        if self.bad_from is not None and at >= self.bad_from:
            raise RunError("not finite")

    def probe(self, state: Any, step: int) -> tuple[Any, Mapping[str, float]]:
        assert int(state["step"]) == step
        assert not self.preemption.requested  # not waited for
        self._signal("probe", step)
        self.preemption.check()
        self.events.append(("probe", step))
        probes = state["probes"] * 7 + step + 1
        return {**state, "probes": probes}, {"probe_accuracy": step / 2}

    def save(self, state: Any, step: int, probed: int) -> None:
        assert int(state["step"]) == step
        self.events.append(("save", step, probed))
        self.checkpoints[step] = (jax.tree.map(np.asarray, state), probed)
        self._signal("save", step)

    def after_step(self, step: int) -> None:
        self.events.append(("after_step", step))
        self._signal("after_step", step)

    # Writer
    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self.events.append(("row", step, dict(scalars)))

    def flush(self) -> None:
        self.events.append(("flush",))

    def close(self) -> None:
        raise AssertionError("the loop does not own the writer")

    # Step and data
    def step(self, state: Any, batch: Any) -> tuple[Any, Any]:
        if isinstance(batch, tuple):  # the batches of several steps
            self.calls.append(len(batch))
            for one in batch:
                state, metrics = self.step(state, one)
            return state, metrics
        self.events.append(("step", int(batch)))
        return jitted(state, batch)

    def batches(self, start: int) -> Iterator[jax.Array]:
        for number in range(start, 1 << 20):
            self.events.append(("draw", number))
            yield jnp.int32(number)

    def train(
        self,
        config: LoopConfig,
        steps: int,
        *,
        state: Any = None,
        start: int = 0,
        probed: int = -1,
        step: Callable[..., Any] | None = None,
        most: int = 0,
    ) -> Outcome:
        ledger = Ledger(None)
        with Progress("test", steps, start) as progress:
            log = Log(
                config.log_every,
                self,
                progress,
                ledger,
                steps=steps,
                images_per_step=10,
                flops_per_step=8.0,
                shown=("loss", "target_accuracy"),
                warning=self.warning,
            )
            calls = calls_of(config, most, start, steps)
            calls._clock = lambda: 0.0  # as if steps took no time: the same on a busy machine
            # Bound late: tests replace the methods.
            hooks = Hooks(
                log,
                lambda state: self.check(state),
                Probe(config.probe_every, lambda state, at: self.probe(state, at), probed),
                Save(
                    config.save_every,
                    config.save_minutes,
                    lambda state, at, probed: self.save(state, at, probed),
                    start=start,
                    clock_every=config.log_every,
                ),
                (self.after_step,),
                stragglers=self.stragglers,
            )
            return train(
                start_state() if state is None else jax.tree.map(jnp.asarray, state),
                step or self.step,
                self.batches(start),
                hooks,
                calls,
                start=start,
                steps=steps,
                preemption=self.preemption,
                ledger=ledger,
            )

    def of(self, *kinds: str) -> list[Event]:
        return [e for e in self.events if e[0] in kinds]

    def numbers(self, kind: str) -> list[int]:
        return [e[1] for e in self.of(kind)]

    def log_rows(self) -> list[tuple[int, float]]:
        return [(e[1], e[2]["loss"]) for e in self.of("row") if "loss" in e[2]]

    def order(self) -> list[str]:
        return [
            f"{e[0]} {e[1]}" + (f" probed {e[2]}" if e[0] == "save" else "")
            for e in self.of("probe", "save", "draw", "step", "row", "after_step")
        ]


def config_of(log: int, probe: int, save: int) -> LoopConfig:
    """Periods in steps; the clock saves nothing."""
    return LoopConfig(
        log_every=log, probe_every=probe, save_every=save, profile_at=0, save_minutes=1e9
    )
