"""Worker processes: what stops the program is their parent's to answer, and none outlives it.

A terminal and a scheduler signal the whole process group. A worker that obeyed would be gone before
its parent has saved, which then fails instead of stopping.
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
    """Processes and threads started in the block, and by those threads, have the signals blocked.

    A worker imports for seconds before it can say that it ignores them. What arrives here
    meanwhile is heard when the block ends.
    """
    resource_tracker.ensure_running()  # the first worker's start would, and unblocks them behind it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals_end_with_parent() -> None:
    """To be called first thing in a worker: ignores the signals, and ends when its parent does."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody is left to tell
