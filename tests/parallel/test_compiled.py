"""Compiled programs are stored on accelerators; tested in separate processes (global settings)."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from frepo_scale.parallel.compiled import keep_compiled

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(jnp.ones(3))  # before a folder is set
if sys.argv[3:]:
    jax.config.update("jax_compilation_cache_dir", sys.argv[3])
keep_compiled(Path(sys.argv[1]), sys.argv[2])
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones(3)).block_until_ready()
"""


@pytest.mark.parametrize(
    ("platform", "named", "kept"),
    [("tpu", False, True), ("gpu", False, True), ("cpu", False, False), ("tpu", True, False)],
)
def test_programs_are_kept(platform, named, kept, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cache, own = tmp_path / "run" / "compiled", tmp_path / "own"
    command = [sys.executable, "-c", PROGRAM, str(cache), platform, *([str(own)] if named else [])]
    subprocess.run(command, check=True)
    assert cache.exists() == kept and (not kept or list(cache.iterdir()))
