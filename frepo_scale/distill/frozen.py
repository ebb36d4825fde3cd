"""A pool of nets from files that are neither trained nor replaced (docs/algorithm.md section 8c).

Member m is the net of file `m mod F`. So with P = F every file is a member; where a stratum has a
multiple of F members, every stratum has the net of every file, and otherwise neighbouring strata
have different ones.

Legend: P pool size, M members per outer step, F files.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.distill.pool import Member, PoolConfig, PoolState


def check_frozen(config: PoolConfig) -> None:
    """Raises InputError for settings that contradict `POOL_WEIGHTS`."""
    if not config.frozen:
        return
    if config.max_online:
        raise InputError(
            f"POOL_WEIGHTS with MAX_ONLINE = {config.max_online}",
            "MAX_ONLINE = 0: nets from files are neither trained nor replaced",
            "use --gin.MAX_ONLINE=0",
        )
    if config.online_steps != 1 or config.draw_online_steps:
        raise InputError(
            f"POOL_WEIGHTS with ONLINE_STEPS = {config.online_steps}, DRAW_ONLINE_STEPS ="
            f" {config.draw_online_steps}",
            "no settings of online steps: nets from files take none",
            "use --gin.ONLINE_STEPS=1 --gin.DRAW_ONLINE_STEPS=False",
        )
    files = len(config.weights)
    if config.size % files:
        raise InputError(
            f"POOL_SIZE = {config.size} with {files} files in POOL_WEIGHTS",
            "a pool that the files divide evenly",
            f"use --gin.POOL_SIZE={math.lcm(files, config.members)}",
        )


def frozen_pool(
    module: nn.Module, config: PoolConfig, seed: int, image: jax.ShapeDtypeStruct
) -> PoolState:
    """P members of zeros, without optimiser states, for `filled`.

    Args:
      module: the net.
      config: the pool.
      seed: not used: nothing is random.
      image: shape (H, W, C) and dtype of an image.
    """
    del seed
    images = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    found = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    params, stats = jax.tree.map(
        lambda x: jnp.zeros((config.size, *x.shape), x.dtype),
        (found["params"], found.get("batch_stats", {})),
    )
    return Member(params, stats, (), jnp.zeros(config.size, jnp.int32))


def filled(pool: PoolState, nets: Sequence[Any], sharding: jax.sharding.Sharding) -> PoolState:
    """The pool with the nets of files; member m is net `m mod F`.

    Args:
      pool: of `frozen_pool`.
      nets: flax variables (`params`, `batch_stats`) of F nets, host arrays.
      sharding: of every array of the pool.
    """
    if not nets:
        raise ValueError("a pool of frozen nets without nets: plans have no state to start from")

    def placed(leaf: jax.Array, *of_nets: np.ndarray) -> jax.Array:
        host = np.stack([np.asarray(x, leaf.dtype) for x in of_nets])
        host = host[np.arange(len(leaf)) % len(host)]
        return jax.make_array_from_callback(leaf.shape, sharding, host.__getitem__)

    params = jax.tree.map(placed, pool.params, *(net["params"] for net in nets))
    stats = jax.tree.map(placed, pool.stats, *(net["batch_stats"] for net in nets))
    return pool._replace(params=params, stats=stats)
