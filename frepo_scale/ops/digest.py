"""A content digest of every array of a state, to notice damaged checkpoints.

Orbax restores flipped bytes without complaint (STACK.md section 4). The digest is computed on the
devices and sums over elements, so it is the same however the array is sharded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77)  # odd: any change of a single word changes the sum


def _words(x: jax.Array) -> jax.Array:
    """The bits of an array as a flat uint32 array."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if x.dtype.itemsize < 4:
        narrow = jnp.uint8 if x.dtype.itemsize == 1 else jnp.uint16
        return jax.lax.bitcast_convert_type(x, narrow).astype(jnp.uint32).reshape(-1)
    return jax.lax.bitcast_convert_type(x, jnp.uint32).reshape(-1)


def _leaf_digest(x: jax.Array) -> jax.Array:
    words = _words(x)
    position = jax.lax.iota(jnp.uint32, words.size)
    sums = []
    for multiplier in _MULTIPLIERS:
        weight = (position * jnp.uint32(multiplier)) ^ (position >> 15)
        sums.append(jnp.sum(words * (weight | 1), dtype=jnp.uint32))
    return jnp.stack(sums)


@jax.jit
def _digests(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_leaf_digest(x) for x in leaves])


def digests(state: Any) -> dict[str, str]:
    """Path of every leaf of a pytree of arrays to its dtype, shape and 64-bit digest."""
    paths_and_leaves = jax.tree_util.tree_leaves_with_path(state)
    values = np.asarray(_digests([leaf for _, leaf in paths_and_leaves]))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}{list(leaf.shape)}:{value[0]:08x}{value[1]:08x}"
        )
        for (path, leaf), value in zip(paths_and_leaves, values, strict=True)
    }
