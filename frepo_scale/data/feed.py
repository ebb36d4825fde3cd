"""Target batches on the devices of a mesh, transferred before the step needs them.

A global batch is split over both axes of the mesh in the order of its rows; each process reads the
rows of its own devices (the p-th of n contiguous parts, if processes have as many devices). The
batches are the same for any number of processes, and the only state is the step.

Legend: G rows of a global batch, n images, H W C as in `core.types`.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
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
    batches: Iterator[Batch]
    with contextlib.ExitStack() as stack:
        if feed.placement == "device":
            rows = _ahead(host_rows(feed.order, start, slice(None)).map(_Putter(over(feed.mesh))))
            stack.callback(rows.close)
            gather, pixels = jax.jit(_gather(feed.mesh)), _upload(feed.images, feed.mesh)
            batches = (gather(pixels, chosen) for chosen in rows)
        elif feed.placement == "constant":
            mine = feed.order[start][local_part(split, len(feed.order[start]))]
            only = Batch(feed.images.at(mine), feed.images.labels[mine])
            batches = itertools.repeat(_Putter(split)(only))
        else:
            part = local_part(split, len(feed.order[start]))
            host = host_batches(feed.images, feed.order, start, part, feed.workers)
            ahead = _ahead(host.map(_Putter(split)))
            stack.callback(ahead.close)
            batches = ahead
        yield batches if feed.constants is None else _made(feed.constants, batches, split)


class Held(NamedTuple):
    """The target part on the devices, of which `batch_of` makes batches.

    Attributes:
      pixels: uint8 images and labels, split over all devices and padded to them.
      constants: make net inputs of the pixels.
    """

    pixels: Batch
    constants: Constants


def hold(feed: Feed) -> Held:
    """Uploads the target part of a feed whose placement is "device"."""
    assert feed.constants is not None
    return Held(_upload(feed.images, feed.mesh), feed.constants)


def batch_of(mesh: Mesh, held: Held, rows: jax.Array) -> Batch:
    """The batch of `rows` (G,) int32, as `target_batches` gives it; to be jitted."""
    batch = _gather(mesh)(held.pixels, rows)
    images = to_net_inputs(held.constants, batch.images)
    return Batch(jax.lax.with_sharding_constraint(images, over(mesh, _AXES)), batch.labels)


@contextlib.contextmanager
def target_rows(feed: Feed, start: int) -> Iterator[Iterator[np.ndarray]]:
    """The rows (G,) int32 of every global batch from step `start` on, in host memory.

    They are drawn ahead on a thread that ends with the context.
    """
    with contextlib.closing(_ahead(host_rows(feed.order, start, slice(None)))) as rows:
        yield rows


def replicate(mesh: Mesh, arrays: Any) -> Any:
    """Host arrays, equal on every process, as arrays that every device holds."""
    return _Putter(over(mesh))(arrays)


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


def _gather(mesh: Mesh) -> Callable[[Batch, jax.Array], Batch]:
    """`(uploaded part, rows) -> batch`, split over the devices.

    Each device gives the rows it has and zeros for the others; the sum over devices is the batch.
    """
    return jax.shard_map(
        _gather_local,
        mesh=mesh,
        in_specs=(P(_AXES), P()),
        out_specs=P(_AXES),
        check_vma=False,
    )


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
