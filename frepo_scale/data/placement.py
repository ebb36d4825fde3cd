"""The placement of the target images during a run.

memory: in host memory. Whitened sets are whitened once and transferred as float32; others are held
and transferred as uint8 pixels.
device: uint8 pixels, uploaded once and split over all devices; batches are gathered there.
stream: uint8 pixels in the records of a prepared set, read for each batch.
Pixels become net inputs on the devices.
"""

from typing import NamedTuple

import jax
from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.mesh import platform_of

PLACEMENTS = ("auto", "memory", "device", "stream")
DEVICE_SHARE = 20  # "auto": a set may take this fraction of the devices' memory, as 1 / n
MEMORY_LIMIT = 8 * 2**30  # bytes of float32 images, "auto"


class Room(NamedTuple):
    """The memory of the devices.

    Attributes:
      platform: of the devices.
      device_bytes: memory of all devices together; 0 where it is unknown.
    """

    platform: str
    device_bytes: int


def room_of(mesh: Mesh) -> Room:
    """The memory of the devices of a mesh, which are taken to be alike."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return Room(platform_of(mesh), mesh.size * int(stats.get("bytes_limit", 0)))


def choose_placement(asked: str, pixels: int, prepared: bool, room: Room) -> str:
    """One of `PLACEMENTS` but "auto".

    Args:
      asked: one of `PLACEMENTS`.
      pixels: bytes of the whole set as uint8.
      prepared: whether the set is a prepared one.
      room: on the devices.

    Raises:
      InputError: "stream" without a prepared set.
    """
    if asked == "stream" and not prepared:
        raise InputError(
            "DATA_PLACEMENT = 'stream' and DATA_DIR is not a prepared set",
            "a prepared set: only its records can be read during a run",
            "make one with frepo-scale prepare, or leave DATA_PLACEMENT at 'auto'",
        )
    if asked != "auto":
        return asked
    # On CPUs "device" is the same memory, at a gather more per step.
    if room.platform != "cpu" and pixels * DEVICE_SHARE <= room.device_bytes:
        return "device"
    return "stream" if prepared and 4 * pixels > MEMORY_LIMIT else "memory"
