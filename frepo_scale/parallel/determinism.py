"""Deterministic results on GPUs, which require options of the compiler."""

import os
import sys
from pathlib import Path

from frepo_scale.core.errors import InputError

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# XLA chooses kernels by timing them, and another kernel sums in another order. So the choices of
# the first attempt are stored.
_KEEP_KERNELS = "--xla_gpu_per_fusion_autotune_cache_dir={cache}"


def make_deterministic(cache: Path | None) -> None:
    """Makes XLA use deterministic operations and the kernels of earlier attempts.

    Call it before any device is used. CPUs and TPUs are deterministic anyway; there it changes
    nothing.

    Args:
      cache: a folder for the choices of kernels, the same for every attempt at a run; with None
        attempts may differ in their last bits.

    Raises:
      InputError: the folder cannot be made, or this process uses a GPU already.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC not in given and _uses_gpu():
        raise InputError(
            "DETERMINISTIC = True: this process uses a GPU already, and XLA reads its flags once",
            "a process that has not used a device",
            f"set XLA_FLAGS={_DETERMINISTIC} before it starts, or use frepo-scale distill",
        )
    flags = [_DETERMINISTIC]
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)  # XLA does not
        except OSError as error:
            raise InputError(
                f"folder {cache} cannot be made ({error.strerror or error})",
                "a workdir you may write to",
                "choose another with --workdir",
            ) from error
        flags.append(_KEEP_KERNELS.format(cache=cache.absolute()))
    os.environ["XLA_FLAGS"] = " ".join([given, *(f for f in flags if f not in given)]).strip()


def _uses_gpu() -> bool:
    """Whether JAX has connected to a GPU; asking must not make it connect."""
    if "jax" not in sys.modules:
        return False
    import jax
    from jax._src import xla_bridge  # there is no public function for it

    return xla_bridge.backends_are_initialized() and jax.default_backend() == "gpu"
