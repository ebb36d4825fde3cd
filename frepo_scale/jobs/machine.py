"""The memory and the plan of a run on the accelerators of this machine, before its first step."""

import math
from dataclasses import replace
from typing import Any

import jax

from frepo_scale.core.errors import InputError
from frepo_scale.distill.frepo import FRePo
from frepo_scale.jobs.run import Run
from frepo_scale.jobs.subject import varied
from frepo_scale.parallel.runtime import is_first
from frepo_scale.plan.chips import CHIPS, Chip
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.memory import beside, estimate, least
from frepo_scale.plan.plan import Plan, make_plan
from frepo_scale.plan.search import EVALUATION_BATCH, advice, smallest_change
from frepo_scale.plan.sizes import sizes_of

# What JAX calls the TPUs.
_TPUS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
}


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
        evaluation = found.state + beside(subject, algorithm, subject.placement).evaluation
        smaller = f"; --gin.{EVALUATION_BATCH} lowers it" if evaluation > room else ""
        return (
            f"memory of a device: {found.total / 1e9:.1f} of {room / 1e9:.1f} GB (estimate; state"
            f" and batch {(found.state + found.batch) / 1e9:.1f} GB); in evaluations"
            f" {evaluation / 1e9:.1f} GB{smaller}"
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
        f"use {advice(change)}" if change else "use more devices, or devices with more memory",
    )


def plan_here(run: Run) -> Plan | None:
    """The plan of a run on the accelerators that it is on; None on a CPU or an unknown kind.

    Args:
      run: the run.
    """
    devices = list(run.mesh.devices.flat)
    chip = _chip_of(devices[0])
    if chip is None:
        return None
    hardware = Hardware("this machine", chip, _shape_of(chip, devices))
    vary = varied(run.recipe.name, run.config, run.dataset.image_shape, run.dataset.num_classes)
    return make_plan(vary({}), hardware, run.mesh.shape["pool"], run.mesh.shape["data"])


def _chip_of(device: Any) -> Chip | None:
    """The chip with the memory that the device reports; GPUs by maker and model."""
    kind: str = device.device_kind
    chip = CHIPS.get(_TPUS.get(kind, ""))
    if device.platform == "gpu":
        chip = next((one for one in CHIPS.values() if _model(one.title) == _model(kind)), None)
    if chip is None:
        return None
    room = float((device.memory_stats() or {}).get("bytes_limit", 0))
    return replace(chip, title=kind, memory=room or chip.memory)


def _model(title: str) -> list[str]:
    """Such as ["NVIDIA", "A100"] of "NVIDIA A100-SXM4-40GB"."""
    return title.replace("-", " ").split()[:2]


def _shape_of(chip: Chip, devices: list[Any]) -> tuple[int, ...]:
    """Sides of the slice, or (processes, devices of each)."""
    if chip.platform != "tpu":
        processes = len({device.process_index for device in devices})
        return processes, len(devices) // processes
    dimensions = 2 if chip.shapes else 3
    along = zip(*(device.coords for device in devices), strict=True)
    sides = sorted(1 + max(axis) - min(axis) for axis in list(along)[:dimensions])
    if math.prod(sides) != len(devices):  # not a whole slice
        sides = [len(devices), *[1] * (dimensions - 1)]
    return tuple(sides)
