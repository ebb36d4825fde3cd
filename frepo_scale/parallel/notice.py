"""What JAX's coordination service knows of a stop of several processes, from any thread.

JAX tells all processes of a SIGTERM to any of them by an entry in the service, and they agree on a
poll at which they stop (see `ops.preemption`). Where there is nothing to agree on, because nothing
would be lost, a thread reads the entry while the main thread is in a long call. The name of the
entry is not part of JAX's interface; without it, the processes stop at their next poll.
"""

import contextlib
import signal
from typing import Any

_NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # of XLA's preemption_sync_manager.cc
_INTERRUPTED = "frepo_scale/interrupted"


def noticed() -> int | None:
    """The signal that any of the processes stops for; None before, and if JAX does not say."""
    if not _has(_NOTICE):
        return None
    return signal.SIGINT if _has(_INTERRUPTED) else signal.SIGTERM


def note_interrupt() -> None:
    """Records for all processes that the stop, of which JAX will tell them, is a Ctrl-C."""
    with contextlib.suppress(Exception):  # the service has ended, and the run with it
        _client().key_value_set(_INTERRUPTED, "1", allow_overwrite=True)


def _has(name: str) -> bool:
    try:
        return bool(_client().key_value_try_get(name))
    except Exception:  # there is none, or the service has ended: JAX then ends this process
        return False


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
