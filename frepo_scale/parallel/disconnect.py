"""The end of a process that JAX's coordination service has given up.

The service runs in process 0. Every process reports to it, and it ends all of them when one is
lost. It has no password: whoever registers under the number of a process looks like a new start
of that process, and the service ends the run too. Connections that do not speak its protocol do
nothing ([decision 45](../../docs/decisions/0045-strangers-at-the-coordinator.md)).

By default JAX then aborts the process with exit code 134 and many lines. Here it prints one line
and ends with 42, and an end by a stranger is recorded, so that launchers do not take it for a run
that makes no progress.
"""

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator

from frepo_scale.core.errors import Preempted

_CODE = Preempted().code  # started again, the run resumes
_STRANGER = re.compile(r"task:(\d+) unexpectedly tried to connect")
_LONGEST = 10.0  # seconds for the record: the workdir may be on a store that does not answer
_BRIEF = 200  # characters
_record: Callable[[str], None] | None = None


def record_with(record: Callable[[str], None] | None) -> None:
    """Sets what records an end by a stranger; None: nothing.

    Args:
      record: is given the reason in one line, in a thread of JAX, just before the process ends.
    """
    global _record
    _record = record


def stranger(status: str) -> str | None:
    """What happened, if a message of the service says that a process registered twice."""
    found = _STRANGER.search(status)
    if found is None:
        return None
    return (
        f"another program registered as process {found[1]} of this run: an earlier attempt that is"
        " still alive, another run with the same coordinator, or a stranger"
    )


@contextlib.contextmanager
def ends_in_one_line() -> Iterator[None]:
    """A context in which the client of `jax.distributed.initialize` ends the process as above.

    That function has no argument for it. With a JAX whose client has none either, it changes
    nothing.
    """
    from jax._src.lib import _jax

    made = getattr(_jax, "get_distributed_runtime_client", None)
    if made is None or "missed_heartbeat_callback" not in (made.__doc__ or ""):
        yield
        return
    _jax.get_distributed_runtime_client = functools.partial(made, missed_heartbeat_callback=_end)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_client = made


def _end(status: object, *_: object) -> None:
    """Ends the process; called in a thread of JAX, with the service's message."""
    late = threading.Timer(_LONGEST, os._exit, (_CODE,))
    late.daemon = True
    late.start()
    try:
        text = " ".join(str(status).split())
        reason = stranger(text)
        print(
            f"frepo-scale: {reason or f'another process of this run was lost ({text[:_BRIEF]})'};"
            " start this run again, it resumes",
            file=sys.stderr,
            flush=True,
        )
        if reason is not None and _record is not None:
            with contextlib.suppress(Exception):  # a full disk, a store: the process ends anyway
                _record(reason)
    finally:
        os._exit(_CODE)
