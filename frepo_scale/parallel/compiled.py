"""The persistent cache of compiled programs, for the next attempt at a run."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep_compiled(cache: Path, platform: str) -> None:
    """Makes JAX store compiled programs in a folder, local or on an object store, and reuse them.

    The outer step of a pod takes minutes to compile, and every preemption would cost them again. On
    CPUs nothing is stored: compiling is fast, and the next machine may lack instructions that a
    program uses. A cache folder that the user has set is not changed. JAX warns of errors there.

    Args:
      cache: the same for every attempt.
      platform: "cpu", "gpu" or "tpu".
    """
    if platform == "cpu" or jax.config.values["jax_compilation_cache_dir"]:
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(cache))
    compilation_cache.reset_cache()  # JAX reads the path at its first compilation
