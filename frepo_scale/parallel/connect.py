"""The start of a command that computes: its processes, its devices, and that they agree."""

import jax

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.ending import lost_peer
from frepo_scale.parallel.environment import check_same_environment
from frepo_scale.parallel.failures import device_error, in_use, no_backend, out_of_memory
from frepo_scale.parallel.runtime import initialize


def connect() -> None:
    """Connects the processes and finds the devices; call it before any use of devices.

    Raises:
      InputError: the environment is wrong, the devices that it asks for are missing or in use, or
        the processes do not run the same program.
      FailedElsewhere: process 0 has reported that the processes differ.
    """
    initialize()
    _check_devices()
    check_same_environment()


def _check_devices() -> None:
    """Raises InputError if the devices that were asked for are missing or in use.

    JAX computes on the CPU instead in two cases: with `JAX_PLATFORMS=cuda,cpu` and no GPU, and,
    without JAX_PLATFORMS, if another process holds the devices or the driver is too old.
    """
    asked = str(jax.config.values.get("jax_platforms") or "").partition(",")[0]
    try:
        found = jax.default_backend()
    except Exception as error:
        if lost_peer(error):
            raise
        if not str(error):  # JAX with JAX_PLATFORMS=cuda on a machine without a GPU
            error = RuntimeError(f"there is no {asked}")
        raise _unusable(error) or no_backend(error) from error
    if found != "cpu":
        return
    if asked not in ("", "cpu"):
        raise no_backend(RuntimeError(f"there is no {asked}"))
    for platform in ("tpu", "cuda") if not asked else ():
        try:
            jax.devices(platform)
        except RuntimeError as error:  # most often: this machine has none
            known = _unusable(error)
            if known is not None:
                raise known from error


def _unusable(error: Exception) -> InputError | None:
    # If there is no memory at this moment, another process has it.
    return in_use(error) if out_of_memory(error) else device_error(error)
