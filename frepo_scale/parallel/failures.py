"""Failures of JAX, devices and the system that are no bugs of this package, as one line each.

The texts are those of JAX, XLA and CUDA; `tests/parallel/test_failures.py` quotes them.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

from frepo_scale.core.errors import FailedElsewhere, InputError, Preempted, RunError
from frepo_scale.parallel.ending import lost_peer

# `core.errors` counts them among the temporary errors: the process before may still be ending.
_IN_USE = re.compile(
    r"already in use by|Device or resource busy|CUDA_ERROR_DEVICE_UNAVAILABLE"
    r"|busy or unavailable|libtpu multi-process lockfile"
)
_OUT_OF_MEMORY = re.compile(
    r"[Oo]ut of memory|OUT_OF_MEMORY|[Ff]ailed to allocate|STATUS_ALLOC_FAILED|std::bad_alloc"
    r"|Cannot allocate memory|Unable to allocate"
)
_OLD_DRIVER = re.compile(
    r"INSUFFICIENT_DRIVER|[Dd]river version is insufficient|InsufficientDriver"
    r"|SYSTEM_DRIVER_MISMATCH|[Dd]river/library version mismatch|UNSUPPORTED_PTX_VERSION"
    r"|COMPAT_NOT_SUPPORTED_ON_DEVICE|Outdated \w+ installation|must be at least as new as"
)
_NO_TEMPORARY = "No usable temporary directory"
_BACKEND = re.compile(
    r"Unable to initialize backend|Unknown backend|failed to initialize|provides no devices"
)
_DEVICE_WORDS = re.compile(r"hbm|CUDA|cuda|GPU|gpu|device|RESOURCE_EXHAUSTED|ALLOC_FAILED")
_LESS_MEMORY = {
    "device": "use devices with more memory, or a smaller net with --gin.WIDTH",
    "host": "use a machine with more memory, or convert the data set with frepo-scale prepare: a"
    " large prepared set is read from disk",
}
_LONGEST = 300  # characters: XLA adds lists of buffers


def explained(
    error: BaseException, advice: Callable[[str], str] | None = None
) -> InputError | RunError | None:
    """The one-line error for a failure of the runtime; None if it is none that is known.

    Args:
      error: what was raised.
      advice: for a lack of memory: its text to what to lower.
    """
    if isinstance(error, InputError | RunError | Preempted | FailedElsewhere) or lost_peer(error):
        return None
    text, brief = str(error), _brief(error)
    known = device_error(error)
    if known is not None:
        return known
    if out_of_memory(error):
        where = "device" if _DEVICE_WORDS.search(text) else "host"
        fix = advice(text) if advice is not None else _LESS_MEMORY[where]
        return RunError(f"out of memory on the {where} ({brief}); {fix}")
    if isinstance(error, OSError) and (_NO_TEMPORARY in text or _full_temporary(error)):
        return InputError(
            f"no room for temporary files ({brief})",
            "a folder for them that can be written and has free space",
            f"set TMPDIR to such a folder; now it is {os.environ.get('TMPDIR') or 'not set'}",
        )
    if _BACKEND.search(text):
        return no_backend(error)
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device or of the machine does not suffice."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def device_error(error: BaseException) -> InputError | None:
    """The error for a device that is there and cannot be used; None if that is not the reason."""
    a_file = isinstance(error, OSError) and not str(error.filename or "/dev/").startswith("/dev/")
    if not a_file and _IN_USE.search(str(error)):
        return in_use(error)
    if not _OLD_DRIVER.search(str(error)):
        return None
    return InputError(
        f"the driver does not suit the installed libraries ({_brief(error)})",
        "a driver and CUDA libraries that suit each other",
        "update the NVIDIA driver, or install libraries that are not newer than the CUDA version"
        f" that `nvidia-smi` shows: {sys.executable} -m pip install 'jax[cuda12]' or 'jax[cuda13]'",
    )


def in_use(error: BaseException) -> InputError:
    """The error for a device that another process holds; `distill` exits with 42 for it."""
    return InputError(
        f"a device is already in use by another process ({_brief(error)})",
        "devices that no other process uses",
        "wait for the other process to end, or end it",
    )


def no_backend(error: BaseException) -> InputError:
    """The error for devices that JAX cannot use; names the variables that ask for them."""
    names = [
        *("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES"),
        *("TPU_VISIBLE_DEVICES", "JAX_CUDA_VISIBLE_DEVICES", "JAX_MOCK_GPU_TOPOLOGY"),
    ]
    given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    asked = f"{', '.join(given)}: " if given else ""
    return InputError(
        f"{asked}JAX cannot use these devices ({_brief(error)})",
        "devices that this machine has, and the packages for them",
        (f"unset {given[0].partition('=')[0]} to use those that there are, or " if given else "")
        + f"install the packages: {sys.executable} -m pip install 'jax[cuda13]' for NVIDIA GPUs,"
        " 'jax[tpu]' for TPUs",
    )


@contextlib.contextmanager
def explaining(advice: Callable[[str], str] | None = None) -> Iterator[None]:
    """A context that raises known failures of the runtime as `InputError` or `RunError`."""
    try:
        yield
    except Exception as error:
        known = explained(error, advice)
        if known is None:
            raise
        raise known from error


def import_jax() -> None:
    """Imports JAX, which reads its variables; before it nothing that needs JAX can be imported.

    Raises:
      InputError: JAX does not take the value of a variable, or cannot be imported.
    """
    try:
        with _interrupts_later():
            import jax  # noqa: F401
    except ValueError as error:
        text = str(error)
        given = {name: value for name, value in os.environ.items() if name.startswith("JAX")}
        named = [name for name in given if name.lower() in text.lower()]
        # Some texts have the value alone.
        named = named or [name for name, value in given.items() if repr(value) in text]
        if not (named or given):
            raise
        raise InputError(
            f"{', '.join(f'{name}={given[name]}' for name in named or given)} in the environment"
            f" ({_brief(error)})",
            "a value that JAX takes",
            f"unset {(named or list(given))[0]}",
        ) from error


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """A context at whose end a SIGINT in it raises KeyboardInterrupt: an extension module that is
    interrupted while it is loaded raises ImportError or crashes."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    noted: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if noted:
        raise KeyboardInterrupt


def _full_temporary(error: OSError) -> bool:
    """Whether a disk is full on which there are temporary files."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is None:
        return False
    try:
        folder = os.path.realpath(tempfile.gettempdir())
    except FileNotFoundError:
        return True
    # By the names that Python's libraries give: a workdir may be in the same folder.
    path = os.path.realpath(os.fsdecode(error.filename))
    return path.startswith((os.path.join(folder, "tmp"), os.path.join(folder, "pymp-")))


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
