"""A content digest of every array of a state, to notice damaged checkpoints.

Orbax restores flipped bytes without complaint (STACK.md section 4). The digest is computed on the
devices and sums over elements, so it is the same however the array is sharded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SEEDS = (0x9E3779B1, 0x85EBCA77)


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


def _leaf_digest(x: jax.Array) -> jax.Array:
    """Two sums over words mixed with their positions.

    One-to-one mixing lets no change of a single word pass. It must not be linear: in a sum of
    word * weight two flipped signs cancel, and x and -x can change places.
    """
    words = _words(x)
    position = jax.lax.iota(jnp.uint32, words.size).reshape(words.shape)
    sums = [
        jnp.sum(_mix(words ^ _mix(position + jnp.uint32(seed))), dtype=jnp.uint32)
        for seed in _SEEDS
    ]
    return jnp.stack(sums)


@jax.jit
def _digests(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_leaf_digest(x) for x in leaves])


def digest_words(state: Any) -> jax.Array:
    """Two words for every leaf of a pytree of arrays, in its order: (leaves, 2) uint32.

    On the devices, and not waited for: a large state takes a while.
    """
    words: jax.Array = _digests(jax.tree.leaves(state))
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
