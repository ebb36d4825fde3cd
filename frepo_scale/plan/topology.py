"""Devices of TPU slices and GPU hosts for the compiler, on a machine without them.

The TPU compiler is the `libtpu` wheel, that of GPUs JAX's CUDA plugin. Both are kept in folders of
their own (`plan.compilers`). Only one process of a machine may load libtpu at a time.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from frepo_scale.core.errors import InputError
from frepo_scale.plan.compilers import install_command
from frepo_scale.plan.gpu_target import target_text
from frepo_scale.plan.hardware import Hardware

# Otherwise libtpu asks a metadata server that only machines of Google Cloud have.
_NO_SERVER = "TPU_SKIP_MDS_QUERY"


def tpu_devices(name: str) -> Sequence[jax.Device]:
    """The devices of a slice such as "v5e:4x4", in the order that JAX gives them on that slice.

    On v4 and v5p the two cores of a chip form one device ("megacore"), as on the real slice.

    Raises:
      InputError: no such slice, or no libtpu.
    """
    os.environ.setdefault(_NO_SERVER, "1")
    options: dict[str, Any] = {}
    if name.startswith(("v4:", "v5p:")):
        options["chip_config_name"] = "megacore"
    if name.endswith(":1x1"):  # otherwise the compiler takes a host to have at least 2 x 2 chips
        options["chips_per_host_bounds"] = (1, 1, 1)
    return _found(
        f"TPU slice {name!r}",
        "a slice such as v5e:4x4 or v4:2x2x2, and the compiler for it",
        f"check the name; without the compiler: {install_command('tpu')}; one process at a time may"
        " use it",
        platform="tpu",
        topology_name=name,
        **options,
    )


def gpu_devices(hardware: Hardware) -> Sequence[jax.Device]:
    """The devices of hosts with NVIDIA GPUs.

    Raises:
      InputError: no CUDA plugin that can compile for them.
    """
    hosts, devices = hardware.shape
    return _found(
        f"GPU {hardware.name!r}",
        "JAX's CUDA plugin of the version of JAX",
        "remove the folder gpu_compiler and install it again",
        platform="cuda",
        topology_name=hardware.chip.name,
        topology=f"1x{hosts}x{devices}",
        target_config=target_text(hardware.chip),
    )


def devices_of(hardware: Hardware) -> Sequence[jax.Device]:
    """The devices of a hardware to compile for.

    Raises:
      InputError: the compiler is missing, or does not know it.
    """
    if hardware.chip.platform == "tpu":
        return tpu_devices(hardware.name)
    if hardware.chip.platform == "gpu":
        return gpu_devices(hardware)
    return jax.devices()[:1]


def _found(what: str, expected: str, fix: str, **options: Any) -> Sequence[jax.Device]:
    try:
        found = topologies.get_topology_desc(**options)
    except Exception as error:  # errors of compilers and JAX have no common narrower class
        raise InputError(f"{what}: {str(error).splitlines()[0]}", expected, fix) from error
    devices: Sequence[jax.Device] = found.devices
    return devices
