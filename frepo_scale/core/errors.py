"""Errors with a meaning for the user, and suggestions for misspelt names.

`parallel.ending` decides the exit codes. Any other exception is a bug and shows its traceback.
"""

import difflib
import errno
import re
from collections.abc import Iterable

# Temporary errors of file servers and networks, unlike a full disk or missing permission.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED"),
        *("ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    )
    if hasattr(errno, name)
)
# The same errors as text, from stores and libraries that give no error number; and those of a
# device that the process before has not left yet.
_PASSING_WORDS = re.compile(
    r"\b(UNAVAILABLE|DEADLINE_EXCEEDED)\b|Stale file handle|Input/output error"
    r"|Connection (reset|timed out|refused)|Transport endpoint is not connected"
    r"|already in use by (another )?process|CUDA_ERROR_DEVICE_UNAVAILABLE|busy or unavailable"
    r"|Device or resource busy|libtpu multi-process lockfile"
)


class InputError(Exception):
    """Something the user gave is wrong; raised before compute is spent.

    Args:
      what: what is wrong, naming the file, binding or value.
      expected: what would have been right.
      fix: what to type or do.
    """

    def __init__(self, what: str, expected: str, fix: str = "") -> None:
        self.what, self.expected, self.fix = what, expected, fix
        text = f"{what}: expected {expected}"
        text = f"{text}; {fix}" if fix else text
        super().__init__(" ".join(text.split()))  # always one line

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """Worker processes send their errors to the parent by pickle."""
        return type(self), (self.what, self.expected, self.fix)


class RunError(Exception):
    """The run itself failed (divergence, no intact checkpoint); restarting it would not help."""


def is_passing(error: BaseException) -> bool:
    """Whether an error, or its cause, is usually temporary."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in _PASSING:
            return True
        if _PASSING_WORDS.search(str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known names closest to `name`, for the `fix` part of an `InputError`."""
    names = sorted(known)
    return close_names(name, names) or "known: " + ", ".join(names)


def close_names(name: str, known: Iterable[str]) -> str:
    """As `nearest`, but "" where no known name is close."""
    folded = {n.lower(): n for n in sorted(known)}
    close = difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.5)
    return "did you mean " + " or ".join(folded[c] for c in close) + "?" if close else ""


class Preempted(Exception):
    """A stop was requested while work was in progress; what is saved continues after a restart.

    Attributes:
      code: the exit code, 42 after SIGTERM and 130 after Ctrl-C.
    """

    def __init__(self, code: int = 42) -> None:
        """With the exit code of the stop."""
        super().__init__(f"a stop was requested (exit code {code})")
        self.code = code


class FailedElsewhere(Exception):
    """Process 0 has failed and reported why; this process ends with the same code, silently.

    Attributes:
      code: the exit code.
    """

    def __init__(self, code: int) -> None:
        """With process 0's exit code."""
        super().__init__(f"process 0 ended with code {code}")
        self.code = code
