"""The flags of XLA for the same bits on a GPU; their effect can be tested on a GPU only."""

import os
import subprocess
import sys

import jax
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.determinism import make_deterministic


def test_flags_are_added_once_and_known_to_xla(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    cache = tmp_path / "a" / "kernels"
    make_deterministic(cache)
    make_deterministic(cache)
    flags = os.environ["XLA_FLAGS"].split()
    assert flags == [
        "--xla_cpu_enable_fast_math=false",
        "--xla_gpu_deterministic_ops=true",
        f"--xla_gpu_per_fusion_autotune_cache_dir={cache}",
    ]
    assert cache.is_dir()
    # XLA ends the process at a flag it does not know.
    program = "import jax.numpy as jnp; print(jnp.ones(3).sum())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "3.0", done.stderr


def test_a_cache_that_cannot_be_made_is_wrong_input(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"kernels cannot be made .*choose another with --workdir"):
        make_deterministic(tmp_path / "file" / "kernels")


def test_without_a_cache_only_the_operations_are_asked_for(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    make_deterministic(None)
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(("backend", "flags", "refused"), [
    ("gpu", "", True),
    ("gpu", "--xla_gpu_deterministic_ops=true", False),
    ("cpu", "", False),
])  # fmt: skip
def test_a_process_that_uses_a_gpu_is_told_that_it_is_too_late(
    monkeypatch, backend, flags, refused
):
    jax.devices()
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("XLA_FLAGS", flags)
    if refused:
        with pytest.raises(InputError) as caught:
            make_deterministic(None)
        assert "DETERMINISTIC" in caught.value.what and "XLA_FLAGS" in caught.value.fix
    else:
        make_deterministic(None)
