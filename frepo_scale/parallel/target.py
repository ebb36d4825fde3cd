"""What a compiled program depends on besides its own text: versions, devices, options.

A program that was compiled ahead of time, perhaps on another machine, is used only where all of
these are the same.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from frepo_scale.parallel.environment import RECORDED, effective_flags
from frepo_scale.parallel.mesh import DATA, POOL, platform_of

_PACKAGES = ("jax", "jaxlib")
_COMPILERS = {
    "tpu": ("libtpu",),
    "gpu": tuple(
        name.format(version)
        for version in (12, 13)
        for name in ("jax-cuda{}-plugin", "jax-cuda{}-pjrt", "nvidia-cudnn-cu{}")
    ),
    "cpu": (),
}
_SHOWN = 12  # characters of a hash
# Without a GPU no kernels can be timed, so a plan switches the timing off.
_OF_PLANS = "--xla_gpu_autotune_level"


def target_of(mesh: Mesh) -> dict[str, str]:
    """Texts by name; equal for two meshes if a program for one can run on the other.

    Args:
      mesh: devices of this machine, or those of a topology.
    """
    devices, of = list(mesh.devices.flat), platform_of(mesh)
    processes = len({device.process_index for device in devices})
    # What tells most comes first: the first difference is reported.
    found = {
        "kind of device": devices[0].device_kind,
        "devices": f"{len(devices)} in {processes} process(es)",
        "mesh": f"pool {mesh.shape[POOL]} x data {mesh.shape[DATA]}",
        **{name: _version(name) for name in (*_PACKAGES, *_COMPILERS[of])},
        "positions of the devices": _hash([_position(device) for device in devices]),
    }
    if of == "cpu":
        found["processor"] = _processor()
    return found | _options()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def _position(device: jax.Device) -> list[Any]:
    """Where a device is: its number, its process, its coordinates in a slice."""
    coordinates = getattr(device, "coords", None)
    of_chip = getattr(device, "core_on_chip", None)
    return [device.id, device.process_index, coordinates and list(coordinates), of_chip]


def _processor() -> str:
    """Model and instructions of this CPU: code for one may crash on another."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    model = re.search(r"model name\s*:\s*(.+)", text)
    instructions = re.search(r"(?:flags|Features)\s*:\s*(.+)", text)
    name = model[1].strip() if model else platform.machine()
    known = sorted(instructions[1].split()) if instructions else []
    return f"{name}, instructions {_hash(known)}"


def _options() -> dict[str, str]:
    """Options of JAX and of the compiler that are not at their defaults."""
    values = jax.config.values
    found = {
        name: str(values[name])
        for name, default in RECORDED.items()
        if name in values and values[name] != default
    }
    flags = effective_flags(os.environ.get("XLA_FLAGS", "")).split()
    found["XLA_FLAGS"] = " ".join(flag for flag in flags if not flag.startswith(_OF_PLANS))
    found["LIBTPU_INIT_ARGS"] = " ".join(sorted(os.environ.get("LIBTPU_INIT_ARGS", "").split()))
    return found


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_SHOWN]
