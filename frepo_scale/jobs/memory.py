"""What to lower when memory does not suffice, and by how much."""

import re

import jax

from frepo_scale.jobs.run import Run
from frepo_scale.parallel.mesh import DATA, POOL
from frepo_scale.plan.overview import state_bytes

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B\b|\b)"
# XLA for TPUs, when it compiles: "Used 21.95G of 15.48G hbm".
_USED = re.compile(rf"Used {_SIZE} of {_SIZE} hbm")
# XLA on all devices: "trying to allocate 4770354232 bytes", "allocate request for 176.00MiB".
_ASKED = re.compile(rf"allocat\w+ (?:request for )?{_SIZE}")


def what_to_lower(run: Run, text: str) -> str:
    """The settings to lower, with values, as the last part of an error message.

    `CHUNK` comes first: it changes the result by rounding at most, so the run resumes.

    Args:
      run: the run.
      text: the message of XLA, or of NumPy.
    """
    config, mesh = run.config, run.mesh
    rows = max(run.size * (2 if config.distill.flip else 1), config.data.batch)
    at_once = min(config.distill.chunk, -(-rows // mesh.shape[DATA]))
    fits = fraction_that_fits(text, *_memory(mesh.local_devices[0]))
    chunk = int(at_once * min(fits, 0.5))
    advice = []
    if chunk:
        times = f" ({1 / fits:.1f} times as much was asked for as there is)" if 0 < fits < 1 else ""
        advice.append(f"repeat the command with --gin.CHUNK={chunk}{times}")
    if run.dataset.placement == "device":
        single = " --gin.STEPS_PER_CALL=0" if config.loop.steps_per_call > 1 else ""
        advice.append(f"with --gin.DATA_PLACEMENT=memory{single}")
    state = round(state_bytes(run.algorithm, run.dataset) / mesh.shape[POOL] / 2**20, 3)
    advice.append(
        f"in a new --workdir lower POOL_SIZE (now {config.pool.size}; the state takes {state}"
        f" MiB per device), BATCH (now {config.data.batch}) or WIDTH (now {config.net.width})"
    )
    return "; if that does not suffice, ".join(advice)


def fraction_that_fits(text: str, limit: int = 0, held: int = 0) -> float:
    """The share of the memory asked for that is there; 1 if the message does not tell.

    Args:
      text: the message of XLA.
      limit: memory of the device in bytes; 0 if unknown.
      held: what of it is in use, in bytes.
    """
    if used := _USED.search(text):
        return min(1.0, _bytes(used[3], used[4]) / max(_bytes(used[1], used[2]), 1.0))
    asked = _ASKED.search(text)
    if asked and limit:
        return min(1.0, max(limit - held, 0) / max(_bytes(asked[1], asked[2]), 1.0))
    return 1.0


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit]


def _memory(device: jax.Device) -> tuple[int, int]:
    """Memory of a device and what is in use, in bytes; zeros where it does not say."""
    found = device.memory_stats() or {}
    return int(found.get("bytes_limit", 0)), int(found.get("bytes_in_use", 0))
