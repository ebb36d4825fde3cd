"""A content digest of every array of a state, to notice damaged checkpoints.

Orbax restores flipped bytes without complaint (STACK.md section 4). The digest is computed on the
devices and sums over elements, so it is the same however the array is sharded.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ODD = 0x9E3779B1  # times this, positions next to each other differ in high bits too


def _words(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32, in its own shape: flattening would gather a sharded one."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.dtype.itemsize < 4:
        narrow = jnp.uint8 if x.dtype.itemsize == 1 else jnp.uint16
        return jax.lax.bitcast_convert_type(x, narrow).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """MurmurHash3's finaliser: one-to-one on uint32, and every bit of x reaches every bit of it."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _leaf_digest(x: jax.Array, spread: tuple[int, ...]) -> jax.Array:
    """Two sums over words mixed with their positions.

    One-to-one mixing lets no change of a single word pass. It must not be linear: in a sum of
    word * weight two flipped signs cancel, and x and -x can change places.
    """
    words = _words(x)
    number = 1 + jax.lax.iota(jnp.uint32, words.size).reshape(words.shape)  # a first 0 counts too
    position = number * jnp.uint32(_ODD)
    once = _mix(words ^ position)
    mixed = [once, _mix(once ^ position)]

    def add(x: list[jax.Array], y: list[jax.Array]) -> list[jax.Array]:
        return [x[0] + y[0], x[1] + y[1]]

    # One reduction of both: the array is read once, and on CPUs XLA makes vector code of it, which
    # it does not of a sum of integers. Along spread axes it would gather the array first.
    zeros = [jnp.uint32(0)] * len(mixed)
    whole = [axis for axis in range(words.ndim) if axis not in spread]
    sums = jax.lax.reduce(mixed, zeros, add, whole) if whole else mixed
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32) for x in sums])


@functools.partial(jax.jit, static_argnames="spread")
def _digests(leaves: list[jax.Array], spread: tuple[tuple[int, ...], ...]) -> jax.Array:
    return jnp.stack([_leaf_digest(x, axes) for x, axes in zip(leaves, spread, strict=True)])


def _spread_axes(x: Any) -> tuple[int, ...]:
    """The axes of which no device has the whole."""
    if not isinstance(x, jax.Array):
        return ()
    part = x.sharding.shard_shape(x.shape)
    return tuple(axis for axis in range(x.ndim) if part[axis] != x.shape[axis])


def digest_words(state: Any) -> jax.Array:
    """Two words for every leaf of a pytree of arrays, in its order: (leaves, 2) uint32.

    On the devices, and not waited for: a large state takes a while.
    """
    leaves = jax.tree.leaves(state)
    words: jax.Array = _digests(leaves, tuple(map(_spread_axes, leaves)))
    return words


def array_labels(state: Any) -> list[list[str]]:
    """Path and kind ("float32[3, 2]") of every leaf, in the same order."""
    return [
        [jax.tree_util.keystr(path, simple=True, separator="/"), f"{leaf.dtype}{list(leaf.shape)}"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def labelled(labels: list[list[str]], words: np.ndarray) -> dict[str, str]:
    """Path of every leaf to its kind and 64-bit digest.

    Raises:
      ValueError: there are not as many of one as of the other.
    """
    return {
        path: f"{kind}:{one:08x}{other:08x}"
        for (path, kind), (one, other) in zip(labels, words.tolist(), strict=True)
    }


def digests(state: Any) -> dict[str, str]:
    """`labelled` of a state."""
    return labelled(array_labels(state), np.asarray(digest_words(state)))
