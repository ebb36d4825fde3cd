"""Devices that were asked for are there, or the program says so."""

import subprocess
import sys

import jax
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.parallel import connect as module
from frepo_scale.parallel.connect import connect
from frepo_scale.parallel.ending import exit_code

PROGRAM = (
    "from frepo_scale.core.errors import InputError\n"
    "from frepo_scale.parallel.connect import connect\n"
    "try:\n    connect()\n"
    "except InputError as error:\n    print(error.what)\n"
    "else:\n    print('CONNECTED')\n"
)
BUSY = (
    "Backend 'tpu' failed to initialize: ABORTED: The TPU is already in use by process with pid 1"
)


@pytest.mark.parametrize(
    ("platforms", "found"),
    [
        ("cpu", "CONNECTED"),
        ("cuda", "there is no cuda"),
        ("cuda,cpu", "there is no cuda"),  # JAX itself would use the CPU
        ("tpu,cpu", "'tpu'"),
        ("abacus", "'abacus'"),
    ],
)
def test_the_platforms_that_were_asked_for(platforms, found, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert found in done.stdout, done.stderr
    assert (f"JAX_PLATFORMS={platforms}" in done.stdout) == (found != "CONNECTED")


def fails(text):
    def devices(platform=None):
        if platform in (None, "tpu"):
            raise RuntimeError(text)
        raise RuntimeError(f"Unknown backend {platform}")

    return devices


@pytest.fixture
def nothing_asked(monkeypatch):
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)
    yield
    jax.config.update("jax_platforms", before)


def test_a_tpu_in_use_is_not_replaced_by_the_cpu(nothing_asked, monkeypatch):
    monkeypatch.setattr(jax, "devices", fails(BUSY))
    with pytest.raises(InputError) as refused:
        connect()
    assert exit_code(refused.value) == 42


def test_a_machine_without_accelerators_uses_its_cpu(nothing_asked, monkeypatch):
    monkeypatch.setattr(jax, "devices", fails("Backend 'tpu' failed to initialize: no libtpu.so"))
    connect()


def test_memory_that_is_missing_at_the_start_is_held_by_another_process(monkeypatch):
    text = "INTERNAL: failed initializing StreamExecutor: CUDA_ERROR_OUT_OF_MEMORY: out of memory"
    monkeypatch.setattr(jax, "default_backend", fails(text))
    with pytest.raises(InputError) as refused:
        connect()
    assert exit_code(refused.value) == 42


def test_the_end_of_another_process_is_raised_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "lost_peer", lambda error: True)
    monkeypatch.setattr(jax, "default_backend", fails("UNAVAILABLE: socket closed"))
    with pytest.raises(RuntimeError, match="socket closed"):
        connect()
