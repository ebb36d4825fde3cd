"""What was compiled once is kept for the next attempt at a run."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep_compiled(cache: Path, platform: str) -> None:
    """Has JAX keep programs in a folder, which may be on an object store, and look there first.

    A pod's outer step takes minutes to compile, and every preemption would cost them again. Not on
    CPUs, where compiling is quick and a program may meet a machine that lacks its instructions. A
    folder the user has named to JAX stays. Errors of the folder are JAX's warnings.

    Args:
      cache: the same for every attempt.
      platform: "cpu", "gpu" or "tpu".
    """
    if platform == "cpu" or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    jax.config.update("jax_compilation_cache_dir", os.fspath(cache))
    compilation_cache.reset_cache()  # JAX asks once, and something small may be compiled by now
