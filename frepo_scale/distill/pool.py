"""The pool of nets whose features the regression uses (docs/algorithm.md section 3).

All members are in one `PoolState` whose leaves have a leading axis of P members, split over the
mesh axis "pool". The pool consists of M strata of S = P/M neighbouring members. Every outer step
uses one member of each stratum; which one is a function of (seed, step, stratum), not of the mesh.

Legend: P pool size, M members per outer step, S = P/M members per stratum, T online steps a
member lives, b online minibatch, K classes.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from frepo_scale.core.checks import LARGEST_COUNT, check_texts
from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.models.apply import NET_DTYPES, apply_net
from frepo_scale.models.norm import batch_spread_over
from frepo_scale.parallel.mesh import DATA
from frepo_scale.regression.loss import half_squared_errors

PyTree = Any
LARGEST_POOL = 4096  # members; their shapes are traced one by one


@dataclass(frozen=True)
class PoolConfig:
    """The pool of nets."""

    size: int = setting(10, "POOL_SIZE", "nets in the pool, P", low=1, high=LARGEST_POOL)
    members: int = setting(
        1,
        "MEMBERS",
        "nets per outer step, each with its own target batch; 1 is the algorithm of the paper",
        low=1,
    )
    max_online: int = setting(
        100, "MAX_ONLINE", "online steps before a net is replaced, T", low=0, high=LARGEST_COUNT
    )
    learning_rate: float = setting(
        3e-4, "ONLINE_LEARNING_RATE", "learning rate of Adam in online steps", above=0
    )
    batch: int = setting(1000, "", "largest minibatch of an online step", low=1)
    dtype: str = setting(
        "float32",
        "NET_DTYPE",
        "dtype of the nets of the pool in online steps: float32 | bfloat16",
        choices=NET_DTYPES,
    )
    online_steps: int = setting(
        1, "ONLINE_STEPS", "online steps of a net per outer step that uses it", low=1, high=1000
    )
    draw_online_steps: bool = setting(
        False,
        "DRAW_ONLINE_STEPS",
        "a random number of online steps each time, from 1 to ONLINE_STEPS",
    )
    weights: tuple[str, ...] = setting(
        (),
        "POOL_WEIGHTS",
        "safetensors files of nets that stay as they are, with MAX_ONLINE=0; (): nets that train",
        operational=True,  # a file may be moved; what it holds may not change
    )
    weights_sha256: tuple[str, ...] = setting(
        (), "", "sha256 of each of these files; a run finds them out itself"
    )
    ages: str = setting(
        "staggered",
        "POOL_AGES",
        "ages of the nets at the start: staggered (so that resets are spread out) | zero",
        choices=("staggered", "zero"),
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds, or members that do not divide."""
        for name, label in (("weights", "POOL_WEIGHTS"), ("weights_sha256", "Pool.weights_sha256")):
            # As tuples: this object is hashed.
            object.__setattr__(self, name, check_texts(label, getattr(self, name)))
        check_settings(self)
        if self.size % self.members:
            fits = ", ".join(str(m) for m in range(1, self.size + 1) if self.size % m == 0)
            raise InputError(
                f"MEMBERS = {self.members} with POOL_SIZE = {self.size}",
                "members per step that divide the pool",
                f"possible for MEMBERS: {fits}",
            )

    @property
    def stratum(self) -> int:
        """S, the members of one stratum."""
        return self.size // self.members

    @property
    def frozen(self) -> bool:
        """Whether the nets come from files and are never trained (`distill.frozen`)."""
        return bool(self.weights)


class Member(NamedTuple):
    """One net with its optimiser.

    Attributes:
      params: flax parameters.
      stats: flax `batch_stats`, empty for nets without BatchNorm.
      optimiser: Adam state.
      age: int32 scalar, online steps since it was last reset (staggered at the start).
    """

    params: PyTree
    stats: PyTree
    optimiser: optax.OptState
    age: jax.Array


PoolState = Member
"""A `Member` every leaf of which has a leading axis of P."""


def adam(config: PoolConfig) -> optax.GradientTransformation:
    """The members' optimiser."""
    return optax.adam(config.learning_rate)


def fresh_member(
    module: nn.Module, config: PoolConfig, key: jax.Array, image: jax.ShapeDtypeStruct, age: int
) -> Member:
    """A newly initialised member.

    Args:
      module: the net.
      config: the pool.
      key: key of its initialisation.
      image: shape (H, W, C) and dtype of an image.
      age: the age to start from.
    """
    # The forward pass of init is dead code once jitted: only shapes matter.
    variables = module.init(key, jnp.zeros((1, *image.shape), image.dtype), train=False)
    params = variables["params"]
    return Member(
        params, variables.get("batch_stats", {}), adam(config).init(params), jnp.int32(age)
    )


def initial_age(member: int, config: PoolConfig) -> int:
    """Staggered within each stratum so that resets spread out, `T (i mod S) // S`; or 0."""
    if config.ages == "zero":
        return 0
    return config.max_online * (member % config.stratum) // config.stratum


def initial_pool(
    module: nn.Module, config: PoolConfig, seed: int, image: jax.ShapeDtypeStruct
) -> PoolState:
    """P fresh members with staggered ages.

    Args:
      module: the net.
      config: the pool.
      seed: the run's seed.
      image: shape (H, W, C) and dtype of an image.
    """

    @jax.jit
    def member(index: jax.Array) -> Member:
        return fresh_member(module, config, key_for(seed, Purpose.POOL_INIT, index), image, 0)

    members = [
        member(jnp.int32(i))._replace(age=jnp.int32(initial_age(i, config)))
        for i in range(config.size)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def take_member(pool: PoolState, index: jax.Array) -> Member:
    """Member `index` (int32 scalar) of the pool."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, keepdims=False), pool)


def put_member(pool: PoolState, index: jax.Array, member: Member) -> PoolState:
    """The pool with `member` at `index` (int32 scalar)."""
    return jax.tree.map(
        lambda x, leaf: jax.lax.dynamic_update_index_in_dim(x, leaf, index, 0), pool, member
    )


class Minibatch(NamedTuple):
    """This device's part of an online minibatch, which is spread over the mesh axis "data".

    Attributes:
      images: (b, H, W, C).
      labels: (b, K).
      weights: (b,) 1 for an image, 0 for padding.
      size: images of the whole minibatch, over all devices.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array
    size: int


def online_loss(
    module: nn.Module, params: PyTree, stats: PyTree, batch: Minibatch, dtype: str = "float32"
) -> tuple[jax.Array, PyTree]:
    """This device's share of `mean_b ½ ‖logits - labels‖²` in training mode, and new statistics.

    Inside `shard_map` over the mesh. The shares of the devices add up to the loss; the statistics
    are those of the whole minibatch and the same on every device. The net computes in `dtype`, one
    of `models.apply.NET_DTYPES`; loss and statistics do not.
    """
    with batch_spread_over(DATA, batch.weights):
        logits, _, stats = apply_net(module, params, stats, batch.images, dtype, train=True)
    errors = half_squared_errors(logits - batch.labels)
    loss = jnp.sum(batch.weights.astype(errors.dtype) * errors) / batch.size
    return loss, stats


def online_step(
    module: nn.Module, config: PoolConfig, member: Member, batch: Minibatch
) -> tuple[Member, jax.Array]:
    """One Adam step of a member on synthetic images: docs/algorithm.md section 4, step 6.

    Inside `shard_map` over the mesh.

    Returns:
      The member one update older, the same on every device, and the loss before the update
      (scalar).
    """
    (loss, stats), grads = jax.value_and_grad(
        lambda p: online_loss(module, p, member.stats, batch, config.dtype), has_aux=True
    )(member.params)
    # The gradient on each device is that of the sum of all shares with respect to its own copy of
    # the parameters (normalisation sums over the axis, forward and backward). Their sum is the
    # gradient.
    loss, grads = jax.lax.psum((loss, grads), DATA)
    updates, optimiser = adam(config).update(grads, member.optimiser, member.params)
    params = optax.apply_updates(member.params, updates)
    return Member(params, stats, optimiser, member.age + 1), loss
