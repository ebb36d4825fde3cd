"""How the program ends; every exit code is decided in `exit_code`.

0    done
1    a bug, or the run failed (it diverged, a save failed): a restart would only repeat it
2    wrong input; one line says what, what was expected, and how to correct it
42   stopped and saved, or a disk, store or other process failed for a moment: start it again
130  stopped by Ctrl-C; what the command saves is saved
"""

import contextlib
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from frepo_scale.core.errors import FailedElsewhere, InputError, Preempted, is_passing
from frepo_scale.parallel.runtime import connected, is_first

PREEMPTED_EXIT = 42  # started again, the run resumes
INTERRUPTED_EXIT = 130
_STOPPED = (PREEMPTED_EXIT, INTERRUPTED_EXIT)
_alone = False  # whether `run_and_leave` was called
_GRACE = 3.0  # seconds
_LONGEST_END = 10.0  # seconds
# Messages of transports when another process has ended: gloo (CPU), NCCL (GPU), gRPC. They begin
# with a status word; JAX raises some of them as ValueError.
_LOST_PEER = re.compile(
    r"[A-Z_]{5,}: .*(Gloo [\w ]+ failed|(closed|reset) by peer|remote process exited)"
    r"|(UNAVAILABLE|DEADLINE_EXCEEDED): "
    r"|.*(Barrier (failed because|timed out)|heartbeat timeout|[Cc]oordination service agent"
    r"|unexpectedly tried to connect)",
    re.DOTALL,
)


def exit_code(error: BaseException, resumable: bool = True) -> int:
    """The exit code for an error that ends the program.

    Args:
      error: the error.
      resumable: whether the same command would resume its work, as `distill` does; otherwise
        temporary errors are failures like any other.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_EXIT
    if isinstance(error, FailedElsewhere | Preempted):
        return error.code
    if lost_peer(error) or (resumable and is_passing(error)):
        return PREEMPTED_EXIT
    return 2 if isinstance(error, InputError) else 1


def lost_peer(error: BaseException) -> bool:
    """Whether an error, or its cause, says that another of several processes has ended."""
    found: BaseException | None = error
    while found is not None and connected():
        if _LOST_PEER.match(str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


def run_and_leave(main: Callable[..., int], *arguments: Any) -> NoReturn:
    """Calls `main(*arguments)` and ends the process with the exit code that it returns.

    A single process ends as Python does, and an exception shows its traceback. After a failure
    this takes at most ten seconds, even if threads of libraries still wait. After a stop everything
    is saved and the machine may be gone in a moment, so the process ends at once: JAX alone may
    need a minute to free what it holds and to wait for what is computed.

    With several processes, codes 0 and 42 are ends that all of them reach. They wait for each
    other, at most five minutes, because the end of process 0 aborts the others. Any other code,
    or an exception, may be a failure of this process alone. Python's usual exit would wait for
    the others and then lose the code. So this process ends at once, and the others end within the
    heartbeat.
    """
    global _alone
    _alone = True
    try:
        code = main(*arguments)
    except BaseException as error:
        if not connected():
            _end_in_time(exit_code(error, resumable=False))
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        _end_now(exit_code(error, resumable=False))
    if not connected():
        if code in _STOPPED:
            leave(code)
        if code:
            _end_in_time(code)
        sys.exit(code)
    if code not in (0, PREEMPTED_EXIT):
        _end_now(code)
    import jax

    try:
        jax.distributed.shutdown()
    except Exception:  # the others may have failed; this one is done
        traceback.print_exc()
        _end_now(code)
    if code in _STOPPED:
        leave(code)
    sys.exit(code)


def _end_in_time(code: int) -> None:
    """Limits the time of Python's usual exit, which joins all threads.

    One thread of Orbax waits ten minutes for a folder that another thread failed to make.
    """

    def end() -> None:
        threading.main_thread().join()  # that exit has begun
        time.sleep(_LONGEST_END)
        leave(code)

    threading.Thread(target=end, name="end", daemon=True).start()
    _flush()


def may_leave() -> bool:
    """Whether this process runs the program alone; a notebook, for example, must never be ended."""
    return _alone


def others_first() -> None:
    """Before `leave`: process 0 of several, whose end aborts the others, gives them the time."""
    if connected() and is_first():
        time.sleep(_GRACE)


def leave(code: int) -> NoReturn:
    """Ends this process and those it has started at once, from any thread."""
    for child in multiprocessing.active_children():
        child.terminate()
    _flush()
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no reader, or closed
            stream.flush()


def _end_now(code: int) -> NoReturn:
    """Ends this process without waiting for the others."""
    try:
        _flush()
        # The same failure often reaches other processes a moment later, and the end of process 0
        # aborts them. They get the time to report it and to end with their own code.
        if is_first():
            time.sleep(_GRACE)
    finally:
        os._exit(code)
