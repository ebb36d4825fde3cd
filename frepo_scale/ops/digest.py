"""A content digest of every array of a state, to detect damaged checkpoints.

Orbax restores flipped bytes without an error. The digest is computed on the devices and is a sum
over elements, so it does not depend on how the array is sharded.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ODD = 0x9E3779B1  # multiplied by it, neighbouring positions also differ in their high bits


def _words(x: jax.Array) -> jax.Array:
    """The bits of an array as uint32, in its shape: flattening would gather a sharded array."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.dtype.itemsize < 4:
        narrow = jnp.uint8 if x.dtype.itemsize == 1 else jnp.uint16
        return jax.lax.bitcast_convert_type(x, narrow).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer: a bijection of uint32; every input bit affects every output bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _leaf_digest(x: jax.Array, sharded: tuple[int, ...]) -> jax.Array:
    """Two sums over words mixed with their positions.

    Because the mixing is a bijection, every change of a single word changes the sum. It must not be
    linear: in a sum of word * weight two flipped signs cancel, and exchanging x and -x is not seen.
    """
    words = _words(x)
    # From 1, so that a leading 0 counts.
    number = 1 + jax.lax.iota(jnp.uint32, words.size).reshape(words.shape)
    position = number * jnp.uint32(_ODD)
    once = _mix(words ^ position)
    mixed = [once, _mix(once ^ position)]

    def add(x: list[jax.Array], y: list[jax.Array]) -> list[jax.Array]:
        return [x[0] + y[0], x[1] + y[1]]

    # One reduction of both sums: the array is read once, and on CPUs XLA vectorizes it, unlike a
    # sum of integers. Along sharded axes XLA would gather the array first.
    zeros = [jnp.uint32(0)] * len(mixed)
    whole = [axis for axis in range(words.ndim) if axis not in sharded]
    sums = jax.lax.reduce(mixed, zeros, add, whole) if whole else mixed
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32) for x in sums])


@functools.partial(jax.jit, static_argnames="sharded")
def _digests(leaves: list[jax.Array], sharded: tuple[tuple[int, ...], ...]) -> jax.Array:
    return jnp.stack([_leaf_digest(x, axes) for x, axes in zip(leaves, sharded, strict=True)])


def _sharded_axes(x: Any) -> tuple[int, ...]:
    """The axes along which the array is sharded."""
    if not isinstance(x, jax.Array):
        return ()
    part = x.sharding.shard_shape(x.shape)
    return tuple(axis for axis in range(x.ndim) if part[axis] != x.shape[axis])


def digest_words(state: Any) -> jax.Array:
    """Two words for every leaf of a pytree of arrays, in its order: (leaves, 2) uint32.

    The result is on the devices and may still be being computed.
    """
    leaves = jax.tree.leaves(state)
    words: jax.Array = _digests(leaves, tuple(map(_sharded_axes, leaves)))
    return words


def array_labels(state: Any) -> list[list[str]]:
    """Path, and dtype with shape ("float32[3, 2]"), of every leaf, in the same order."""
    return [
        [jax.tree_util.keystr(path, simple=True, separator="/"), f"{leaf.dtype}{list(leaf.shape)}"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def labelled(labels: list[list[str]], words: np.ndarray) -> dict[str, str]:
    """Maps the path of every leaf to its dtype, shape and 64-bit digest.

    Args:
      labels: what `array_labels` returned.
      words: what `digest_words` returned; (leaves, 2) uint32.

    Raises:
      ValueError: the lengths differ.
    """
    return {
        path: f"{kind}:{one:08x}{other:08x}"
        for (path, kind), (one, other) in zip(labels, words.tolist(), strict=True)
    }


def digests(state: Any) -> dict[str, str]:
    """The digest of every leaf of a state; see `labelled`."""
    return labelled(array_labels(state), np.asarray(digest_words(state)))
