"""Time of asynchronous device work."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

ROUNDS = 5


class Timing(NamedTuple):
    """Seconds of one call, medians over rounds.

    Attributes:
      queued: many calls dispatched one after the other, and only the last one waited for. The
        device's time, unless the host needs longer to dispatch.
      waited: each call waited for before the next: what a program without dispatch ahead takes.
      dispatch: until a call returns to the host.
      spread: (largest - smallest) / median of `queued` over the rounds.
    """

    queued: float
    waited: float
    dispatch: float
    spread: float


def measure(call: Callable[[], Any], seconds: float) -> Timing:
    """Times `call`, which returns arrays on the device, within about `seconds`.

    The first call (compilation, handles, workspaces) is outside of the numbers.
    """
    jax.block_until_ready(call())
    once = _elapsed(lambda: jax.block_until_ready(call()))
    share = seconds / (3 * ROUNDS)
    count = max(1, min(200, int(share / max(once, 1e-7))))
    queued, waited, dispatch = [], [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            out = call()
        dispatch.append((time.perf_counter() - began) / count)
        jax.block_until_ready(out)
        queued.append((time.perf_counter() - began) / count)
        waited.append(_elapsed(lambda: jax.block_until_ready(call())))
    middle = statistics.median(queued)
    return Timing(
        middle,
        statistics.median(waited),
        statistics.median(dispatch),
        (max(queued) - min(queued)) / middle,
    )


def _elapsed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
