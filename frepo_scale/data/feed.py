"""Target batches on the devices of a mesh, transferred before the step needs them.

A global batch is split over both axes of the mesh in the order of its rows; each process reads the
rows of its own devices (the p-th of n contiguous parts, if processes have as many devices). The
batches are the same for any number of processes, and the only state is the step.

Legend: G rows of a global batch, n images, H W C as in `core.types`.
"""

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from frepo_scale.core.types import Batch
from frepo_scale.data.net_inputs import Constants, to_net_inputs
from frepo_scale.data.pipeline import GlobalOrder, host_batches, host_rows
from frepo_scale.data.types import Rows
from frepo_scale.ops.workers import signals_blocked
from frepo_scale.parallel.mesh import DATA, POOL, over

_AHEAD = 2  # batches transferred ahead, while earlier steps run
_UPLOAD_ROWS = 4096
_AXES = (POOL, DATA)


class Feed(NamedTuple):
    """The source of batches.

    Attributes:
      images: the target part: uint8 pixels, or float32 net inputs.
      order: of the global batches.
      placement: "memory", "stream", "device" or "constant", see `data.placement`.
      constants: make net inputs of pixels, on every device (`replicated`); None where `images`
        are net inputs.
      mesh: where batches go.
      workers: processes that read; 0 for threads.
    """

    images: Rows
    order: GlobalOrder
    placement: str
    constants: Constants | None
    mesh: Mesh
    workers: int = 0


@contextlib.contextmanager
def target_batches(feed: Feed, start: int) -> Iterator[Iterator[Batch]]:
    """Endless target batches from step `start` on: (G, H, W, C) float32 and (G,) int32, sharded.

    Threads and workers end with the context.
    """
    split = over(feed.mesh, _AXES)
    with contextlib.ExitStack() as stack:
        if feed.placement == "device":
            rows = _ahead(host_rows(feed.order, start, slice(None)).map(_Putter(over(feed.mesh))))
            stack.callback(rows.close)
            batches = _gathered(feed, rows)
        elif feed.placement == "constant":
            mine = feed.order[start][local_part(split, len(feed.order[start]))]
            only = Batch(feed.images.at(mine), feed.images.labels[mine])
            batches = itertools.repeat(_Putter(split)(only))
        else:
            part = local_part(split, len(feed.order[start]))
            host = host_batches(feed.images, feed.order, start, part, feed.workers)
            batches = _ahead(host.map(_Putter(split)))
            stack.callback(batches.close)
        yield batches if feed.constants is None else _made(feed.constants, batches, split)


def local_part(sharding: NamedSharding, rows: int) -> slice:
    """Which of the first `rows` rows of an array are on the devices of this process.

    Each process has one contiguous range, because meshes take devices in JAX's order.
    """
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    mine = [index[0].indices(rows) for index in indices if index is not None]
    return slice(min(lo for lo, _, _ in mine), max(hi for _, hi, _ in mine))


class _Putter:
    """The local rows of each array to the global array; a class, because Grain pickles it."""

    def __init__(self, sharding: NamedSharding) -> None:
        self._sharding = sharding

    def __call__(self, local: Any) -> Any:
        return jax.tree.map(partial(jax.make_array_from_process_local_data, self._sharding), local)


def _ahead(batches: grain.IterDataset) -> "grain.DatasetIterator":
    """The batches of Grain, made ahead on a separate thread."""
    ahead = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=_AHEAD)
    iterator = iter(ahead)
    with signals_blocked():  # Grain's workers are started by that thread
        iterator.start_prefetch()
    return iterator


def _gathered(feed: Feed, rows: Iterator[jax.Array]) -> Iterator[Batch]:
    """Batches gathered from the whole part, which is split over the devices."""
    held = _upload(feed.images, feed.mesh)
    # Each device gives the rows it has and zeros for the others; the sum over devices is the batch.
    gather = jax.jit(
        jax.shard_map(
            _gather_local,
            mesh=feed.mesh,
            in_specs=(P(_AXES), P()),
            out_specs=P(_AXES),
            check_vma=False,
        )
    )
    for chosen in rows:
        yield gather(held, chosen)


def _gather_local(held: Batch, rows: jax.Array) -> Batch:
    here = len(held.labels)
    local = rows - jax.lax.axis_index(_AXES) * here
    mine = (local >= 0) & (local < here)

    def rows_of(x: jax.Array) -> jax.Array:
        own = x[jnp.clip(local, 0, here - 1)]
        if jax.lax.axis_size(_AXES) == 1:  # on a CPU a sum of one term takes 20 times the gather
            return own
        own = jnp.where(mine.reshape((-1,) + (1,) * (x.ndim - 1)), own, 0)
        return jax.lax.psum_scatter(own, _AXES, scatter_dimension=0, tiled=True)

    return jax.tree.map(rows_of, held)


def _upload(images: Rows, mesh: Mesh) -> Batch:
    """All pixels and labels, split over all devices and padded to them.

    Each process reads only the rows of its own devices.
    """
    split, n = over(mesh, _AXES), len(images)
    part = local_part(split, -(-n // mesh.size) * mesh.size)
    real = np.arange(part.start, min(part.stop, n))
    shape = images.at(np.zeros(1, np.int64)).shape[1:]
    pixels = np.zeros((part.stop - part.start, *shape), np.uint8)
    for lo in range(0, len(real), _UPLOAD_ROWS):
        block = real[lo : lo + _UPLOAD_ROWS]
        pixels[lo : lo + len(block)] = images.at(block)
    labels = np.zeros(len(pixels), np.int32)
    labels[: len(real)] = images.labels[real]
    uploaded: Batch = _Putter(split)(Batch(pixels, labels))
    return uploaded


def _made(constants: Constants, batches: Iterator[Batch], split: NamedSharding) -> Iterator[Batch]:
    """Batches of net inputs, made of pixels on the devices, asynchronously."""
    make = jax.jit(to_net_inputs, out_shardings=split)
    for batch in batches:
        yield Batch(make(constants, batch.images), batch.labels)
