"""The only mesh: axis "pool" over the members of an outer step, axis "data" over images.

The mesh places the algorithm on devices and never changes its result. Every size here is a fact
about the machine; it is checked against the sizes of the algorithm before anything is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import check_settings, setting

POOL, DATA = "pool", "data"


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; changes results by rounding at most."""

    pool: int = setting(
        1, "MESH_POOL", "devices over which the MEMBERS are spread", low=1, operational=True
    )
    data: int = setting(
        0,
        "MESH_DATA",
        "devices over which the images are spread; 0: all remaining ones",
        low=0,
        operational=True,
    )
    deterministic: bool = setting(
        False,
        "DETERMINISTIC",
        "on GPUs: the same bits in every run, slower; CPUs and TPUs always give them",
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)


def build_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices, or those given.

    Raises:
      InputError: the sizes do not make up the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data = config.data or count // config.pool
    if config.pool * data != count:
        raise InputError(
            f"MESH_POOL = {config.pool}, MESH_DATA = {config.data} on {count} devices",
            "sizes whose product is the number of devices",
            f"use --gin.MESH_POOL={math.gcd(config.pool, count)} --gin.MESH_DATA=0 (all others);"
            f" possible for MESH_POOL: {_divisors(count)}",
        )
    grid = np.asarray(devices).reshape(config.pool, data)
    return Mesh(grid, (POOL, DATA), axis_types=(AxisType.Auto,) * 2)


def single_device_mesh() -> Mesh:
    """A mesh of the first device alone."""
    return build_mesh(MeshConfig(), jax.devices()[:1])


def platform_of(mesh: Mesh) -> str:
    """The platform of the mesh's devices ("cpu", "gpu", "tpu"), which may be of another machine."""
    platform: str = mesh.devices.flat[0].platform
    return platform


def check_sizes(mesh: Mesh, members: int, batch: int) -> None:
    """Raises InputError unless M members and a target batch of B divide over the mesh."""
    pool, data = mesh.shape[POOL], mesh.shape[DATA]
    if members % pool:
        raise InputError(
            f"MESH_POOL = {pool} with MEMBERS = {members}",
            "a mesh axis that divides the members of a step",
            _arrangement(mesh.size, members, batch)
            or f"use --gin.MESH_POOL={math.gcd(members, mesh.size)} --gin.MESH_DATA=0",
        )
    if batch % data:
        raise InputError(
            f"BATCH = {batch} over {data} devices of the data axis",
            "a batch that divides over them",
            _arrangement(mesh.size, members, batch)
            or f"use --gin.BATCH={max(data, batch - batch % data)} in a new --workdir, or fewer"
            " devices",
        )


def _arrangement(count: int, members: int, batch: int) -> str:
    """Mesh sizes with which M members and a batch of B divide, as settings; "" if there are none.

    The most devices on the data axis, as by default.
    """
    for pool in range(1, count + 1):
        if count % pool == 0 and members % pool == 0 and batch % (count // pool) == 0:
            return f"use --gin.MESH_POOL={pool} --gin.MESH_DATA={count // pool}"
    return ""


def over(mesh: Mesh, *axes: str | tuple[str, ...] | None) -> NamedSharding:
    """A sharding that splits leading dimensions over the named axes."""
    return NamedSharding(mesh, P(*axes))


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)
