"""Failures of JAX, XLA, CUDA and the system by their texts, which public bug reports quote."""

import errno
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from frepo_scale.core.errors import FailedElsewhere, InputError, Preempted, RunError
from frepo_scale.parallel import ending, failures
from frepo_scale.parallel.failures import explained, explaining

IN_USE = [
    "Unable to initialize backend 'tpu': ABORTED: The TPU is already in use by process with pid"
    " 2718466. Not attempting to load libtpu.so in this process. (set JAX_PLATFORMS='' to"
    " automatically choose an available backend)",
    "ABORTED: The TPU is already in use by another process probably owned by another user. Run"
    ' "$ sudo lsof -w /dev/accel0" to figure out which process is using the TPU.',
    "ABORTED: Internal error when accessing libtpu multi-process lockfile.",
    "UNAVAILABLE: TPU initialization failed: open(/dev/accel0): Device or resource busy",
    "INTERNAL: failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE: CUDA-capable"
    " device(s) is/are busy or unavailable",
]
OLD_DRIVER = [
    "INTERNAL: cudaGetErrorString: CUDA driver version is insufficient for CUDA runtime version",
    "Unable to initialize backend 'cuda': INTERNAL: CUDA error: Failed call to cuInit:"
    " CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has unsupported display driver",
    "Unable to use CUDA because of the following issues with CUDA components: Outdated cuDNN"
    " installation found. Version JAX was built against: 8907 Minimum supported: 9100",
    "Found CUDA version 12010, but JAX was built against version 12020, which is newer. The copy of"
    " CUDA that is installed must be at least as new as the version against which JAX was built.",
]
NO_DEVICE_MEMORY = [
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.\n"
    "BufferAssignment OOM Debugging.\nBufferAssignment stats:\n" + "x" * 10_000,
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
    " Used 21.95G of 15.48G hbm. Exceeded hbm capacity by 6.47G.",
    "RESOURCE_EXHAUSTED: Failed to allocate request for 176.00MiB (184549376B) on device ordinal 0",
    "INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "INTERNAL: CUBLAS_STATUS_ALLOC_FAILED",
]


@pytest.mark.parametrize("text", IN_USE)
def test_a_device_in_use_is_started_again(text):
    known = explained(JaxRuntimeError(text))
    assert isinstance(known, InputError)
    assert ending.exit_code(known) == 42
    assert ending.exit_code(known, resumable=False) == 2


@pytest.mark.parametrize("text", OLD_DRIVER)
def test_a_driver_that_is_too_old_is_wrong_input(text):
    known = explained(RuntimeError(text))
    assert isinstance(known, InputError)
    assert "driver" in known.what and "nvidia-smi" in known.fix
    assert ending.exit_code(known) == 2


@pytest.mark.parametrize("text", NO_DEVICE_MEMORY)
def test_a_device_without_memory_is_a_failure_in_one_short_line(text):
    known = explained(JaxRuntimeError(text), lambda found: f"lower {len(found)}")
    assert isinstance(known, RunError)
    assert ending.exit_code(known) == 1
    assert "device" in str(known) and f"lower {len(text)}" in str(known)
    assert len(str(known)) < 500 and "\n" not in str(known)


def test_a_machine_without_memory():
    with pytest.raises(RunError) as failed, explaining():
        np.zeros(2**60, np.uint8)
    assert "host" in str(failed.value) and "prepare" in str(failed.value)
    known = explained(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert isinstance(known, RunError) and "host" in str(known)


def test_a_missing_backend_names_the_variable(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    known = explained(RuntimeError("Unable to initialize backend 'cuda': no such plugin"))
    assert isinstance(known, InputError)
    assert known.what.startswith("JAX_PLATFORMS=cuda") and known.fix.startswith("unset JAX_PLATF")


def test_no_room_for_temporary_files(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/full")
    text = "No usable temporary directory found in ['/full', '/tmp']"
    known = explained(FileNotFoundError(errno.ENOENT, text))
    assert isinstance(known, InputError)
    assert "TMPDIR" in known.fix and "/full" in known.fix
    inside = os.path.join(tempfile.gettempdir(), "tmpabc", "x")
    assert isinstance(explained(OSError(errno.ENOSPC, "No space left", inside)), InputError)
    # Of a workdir, which the job reports.
    assert explained(OSError(errno.ENOSPC, "No space left", "/work/dir/x")) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        JaxRuntimeError("INVALID_ARGUMENT: shapes"),
        JaxRuntimeError("RESOURCE_EXHAUSTED: Quota exceeded for project"),
        InputError("Out of memory", "known already"),
        RunError("out of memory"),
        Preempted(),
        FailedElsewhere(2),
        KeyError("device"),
    ],
)
def test_what_is_not_known_stays_as_it_is(error):
    assert explained(error) is None
    with pytest.raises(type(error)) as raised, explaining():
        raise error
    assert raised.value is error


def test_the_end_of_another_process_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(ending, "connected", lambda: True)
    error = JaxRuntimeError("UNAVAILABLE: Device or resource busy")
    assert explained(error) is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *[("JAX_ENABLE_X64", "maybe"), ("JAX_DEFAULT_PRNG_IMPL", "mt19937")],
        ("JAX_RANDOM_SEED_OFFSET", "1.5"),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "much"),
        *[("JAX_NUMPY_DTYPE_PROMOTION", "loose"), ("JAX_DEFAULT_DEVICE", "abacus")],
    ],
)
def test_a_value_that_jax_does_not_take_is_named(variable, value, monkeypatch):
    program = (
        "from frepo_scale.core.errors import InputError\n"
        "from frepo_scale.parallel.failures import import_jax\n"
        "try:\n    import_jax()\n"
        "except InputError as error:\n    print(error.what, '|', error.fix)\n"
    )
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("JAX_LOG_COMPILES", "0")  # another one, that is right
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    what, _, fix = done.stdout.partition("|")
    assert f"{variable}={value}" in what and "JAX_LOG_COMPILES" not in what
    assert fix.strip() == f"unset {variable}"


def test_another_error_of_an_import_stays_as_it_is(monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "jax":
                raise ValueError("a bug")

    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for name in list(os.environ):
        if name.startswith("JAX"):
            monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="a bug"):
        failures.import_jax()
