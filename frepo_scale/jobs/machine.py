"""The memory of a run on the accelerators of this machine, before its first step."""

from typing import Any

import jax

from frepo_scale.core.errors import InputError
from frepo_scale.distill.frepo import FRePo
from frepo_scale.jobs.run import Run
from frepo_scale.jobs.subject import varied
from frepo_scale.parallel.runtime import is_first
from frepo_scale.plan.chips import Chip
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.memory import estimate, least
from frepo_scale.plan.plan import make_plan
from frepo_scale.plan.search import as_flags, smallest_change
from frepo_scale.plan.work import sizes_of


def check_memory(run: Run) -> None:
    """Prints the memory line of `memory_line`; process 0 does it for all.

    Raises:
      InputError: the run cannot fit.
    """
    line = memory_line(run)
    if line and is_first():
        print(line)


def memory_line(run: Run, device: Any = None) -> str:
    """What an outer step needs of a device and what the device has; "" where that is not known.

    It is refused only where its state, batch and the arrays that it must hold at once exceed the
    memory. The estimate of the whole is less certain and only reported.

    Args:
      run: the run.
      device: a device with `platform`, `device_kind` and `memory_stats`; None: the first one here.

    Raises:
      InputError: the run cannot fit.
    """
    device = jax.local_devices()[0] if device is None else device
    room = int((device.memory_stats() or {}).get("bytes_limit", 0))
    if device.platform == "cpu" or not room:
        return ""
    vary = varied(run.recipe.name, run.config, run.dataset.image_shape, run.dataset.num_classes)
    subject, algorithm = vary({}), run.algorithm
    sizes = sizes_of(subject, algorithm, device) if isinstance(algorithm, FRePo) else None
    found = estimate(subject, algorithm, sizes, device.platform)
    needed = found.state + found.batch + (0.0 if sizes is None else least(sizes))
    if needed <= room:
        return (
            f"memory of a device: {found.total / 1e9:.1f} of {room / 1e9:.1f} GB (estimate; state"
            f" and batch {(found.state + found.batch) / 1e9:.1f} GB)"
        )
    chip = Chip(
        "device", device.device_kind, device.platform,
        dict.fromkeys(("bfloat16", "default", "high", "highest", "float64"), 1.0),
        float(room), 1.0, 1.0, 1.0, 1,
    )  # fmt: skip
    hardware = Hardware("this machine", chip, (1, run.mesh.size))
    mesh = run.mesh.shape
    change = smallest_change(vary, make_plan(subject, hardware, mesh["pool"], mesh["data"]))
    raise InputError(
        f"an outer step of {run.recipe.name} needs {needed / 1e9:.1f} GB or more of each device,"
        f" which has {room / 1e9:.1f} GB",
        "a run that fits",
        f"use {as_flags(change)}" if change else "use more devices, or devices with more memory",
    )
