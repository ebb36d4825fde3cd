"""Worker processes: signals are handled by their parent only, and no worker outlives it.

A terminal and a scheduler signal the whole process group. A worker that ended at the signal would
be missing while its parent saves, and the parent would fail instead of stopping.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Starts processes and threads in the block with SIGINT and SIGTERM blocked.

    A worker needs seconds of imports before it can ignore the signals itself. Signals that arrive
    in this process meanwhile are delivered when the block ends.
    """
    # The start of the first worker would start the tracker, which unblocks the signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_end_with_parent() -> None:
    """Ignores SIGINT and SIGTERM and ends with the parent; a worker calls it first."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
