"""The same bits from the same steps on a GPU, where that has to be asked for."""

import os
from pathlib import Path

from frepo_scale.core.errors import InputError

_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# Which kernels are fastest is found by timing them; another choice adds up in another order.
# So the first attempt's choices are kept.
_KEEP_KERNELS = "--xla_gpu_per_fusion_autotune_cache_dir={cache}"


def make_deterministic(cache: Path | None) -> None:
    """Has XLA use deterministic operations and the kernels chosen before.

    Before any device is used. CPUs and TPUs are deterministic without it, and do not mind.

    Args:
      cache: a folder for the choice of kernels, the same for every attempt at a run; None keeps
        none, and attempts may differ in their last bits.

    Raises:
      InputError: the folder cannot be made.
    """
    given = os.environ.get("XLA_FLAGS", "")
    flags = [_DETERMINISTIC]
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)  # XLA does not
        except OSError as error:
            raise InputError(
                f"{cache} cannot be made ({error.strerror or error})",
                "a workdir you may write to",
                "choose another with --workdir",
            ) from error
        flags.append(_KEEP_KERNELS.format(cache=cache.absolute()))
    os.environ["XLA_FLAGS"] = " ".join([given, *(f for f in flags if f not in given)]).strip()
