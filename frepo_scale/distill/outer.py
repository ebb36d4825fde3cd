"""How the gradient changes the distilled set: optimiser, clipping, temperature, running average.

The defaults are those of FRePo: LAMB with cosine decay (docs/algorithm.md section 2). The others
are switches of their own (docs/algorithm.md section 8a), for every algorithm on this machinery.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig

LOSSES = ("mse", "cross_entropy")
OPTIMISERS = ("lamb", "adabelief", "adam")
SCHEDULES = ("cosine", "constant")
LABEL_SCALES = ("sqrt", "one")
FINAL_LEARNING_RATE = 0.1  # the cosine ends at this fraction of the learning rate
SHARPNESS_RATE = 10.0  # learning rate of the sharpness, in units of that of the images
_MEMORY = 0.9  # of the running norm of the gradient


@dataclass(frozen=True)
class OuterConfig:
    """The outer objective and its optimiser."""

    loss: str = setting(
        "mse",
        "OUTER_LOSS",
        "loss of the predictions for the target batch: mse | cross_entropy (learned temperature)",
        choices=LOSSES,
    )
    optimiser: str = setting(
        "lamb",
        "OPTIMISER",
        "optimiser of images and labels: lamb | adabelief | adam",
        choices=OPTIMISERS,
    )
    schedule: str = setting(
        "cosine",
        "SCHEDULE",
        "schedule of LEARNING_RATE: cosine (decay to 10 %) | constant",
        choices=SCHEDULES,
    )
    average: float = setting(
        0.0,
        "AVERAGE",
        "decay of the running average of the set that is probed, evaluated and exported;"
        " 0: the set itself",
        high=0.9999,
    )
    clip: float = setting(
        0.0,
        "CLIP",
        "largest norm of the gradient, in units of its running norm, above 1; 0: no limit",
    )
    gradient_images: int = setting(
        0,
        "GRADIENT_IMAGES",
        "distilled images that get a gradient in an outer step, a random choice; 0: all;"
        " the gradient is unbiased in FRePo, biased in RCIG",
        low=0,
    )
    margin: float = setting(
        1.0, "LABEL_MARGIN", "cap of the label margin, in units of 1/classes; 0: no margin term"
    )
    label_scale: str = setting(
        "sqrt",
        "LABEL_SCALE",
        "factor of the initial labels, onehot - 1/classes: sqrt: sqrt(10/classes) | one: 1",
        choices=LABEL_SCALES,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)
        if 0 < self.clip <= 1:
            raise InputError(
                f"CLIP = {self.clip:g}",
                "0 (no limit) or a number above 1: otherwise the running norm of the gradient can"
                " only fall",
                "use --gin.CLIP=2",
            )


class OuterState(NamedTuple):
    """What the switches need in addition to the optimiser's state; None where one is off.

    Attributes:
      sharpness: logarithm of the inverse temperature of the cross-entropy, a scalar.
      sharpness_optimiser: state of its optimiser.
      average: the running average of the set, towards zero: not corrected for its start.
      norm: the running norm of the gradient, a scalar; 0 before the first step.
    """

    sharpness: jax.Array | None
    sharpness_optimiser: optax.OptState | None
    average: DistilledSet | None
    norm: jax.Array | None


def without_effect(outer: OuterConfig, pool: PoolConfig, size: int) -> list[str]:
    """A line for each setting that changes nothing in a run with these others.

    Args:
      outer: the switches.
      pool: the pool.
      size: distilled images, N.
    """
    lines = []
    if outer.gradient_images >= size:
        lines.append(
            f"GRADIENT_IMAGES = {outer.gradient_images} changes nothing: there are {size} distilled"
            " images, and all get a gradient"
        )
    if pool.draw_online_steps and pool.online_steps == 1:
        lines.append("DRAW_ONLINE_STEPS = True changes nothing with ONLINE_STEPS = 1")
    return lines


def learning_rate_schedule(config: DistillConfig, outer: OuterConfig) -> optax.Schedule:
    """Outer step to learning rate."""
    if outer.schedule == "constant":
        return optax.constant_schedule(config.learning_rate)
    return optax.cosine_decay_schedule(
        config.learning_rate, config.steps, alpha=FINAL_LEARNING_RATE
    )


def optimiser(config: DistillConfig, outer: OuterConfig) -> optax.GradientTransformation:
    """The optimiser of images and labels; the trust ratio of LAMB is over the whole leaf."""
    makers = {"lamb": optax.lamb, "adabelief": optax.adabelief, "adam": optax.adam}
    return makers[outer.optimiser](learning_rate_schedule(config, outer))


def _sharpness_optimiser(config: DistillConfig, outer: OuterConfig) -> optax.GradientTransformation:
    """Of the same family; Adam for LAMB, whose trust ratio has no meaning for one scalar."""
    maker = optax.adabelief if outer.optimiser == "adabelief" else optax.adam
    schedule = learning_rate_schedule(config, outer)
    return maker(lambda step: SHARPNESS_RATE * schedule(step))


def initial_outer_state(
    config: DistillConfig, outer: OuterConfig, start: DistilledSet
) -> OuterState:
    """The state before outer step 0."""
    dtype = start.labels.dtype
    entropy = outer.loss == "cross_entropy"
    sharpness = jnp.zeros((), dtype)
    return OuterState(
        sharpness=sharpness if entropy else None,
        sharpness_optimiser=_sharpness_optimiser(config, outer).init(sharpness)
        if entropy
        else None,
        average=jax.tree.map(jnp.zeros_like, start) if outer.average else None,
        norm=jnp.zeros((), dtype) if outer.clip else None,
    )


def clipped(
    outer: OuterConfig, state: OuterState, grads: DistilledSet
) -> tuple[DistilledSet, OuterState]:
    """The gradient with a norm of at most `clip` times its running norm, and the new running norm.

    The running norm is that of the clipped gradients, so that one huge gradient does not raise the
    limit for the next ones.
    """
    if state.norm is None:
        return grads, state
    norm = optax.tree.norm(grads)
    first = state.norm == 0
    limit = jnp.where(first, norm, outer.clip * state.norm)
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
    running = jnp.where(first, norm, _MEMORY * state.norm + (1 - _MEMORY) * scale * norm)
    return jax.tree.map(lambda x: scale * x, grads), state._replace(norm=running)


def updated(
    config: DistillConfig,
    outer: OuterConfig,
    state: OuterState,
    distilled: DistilledSet,
    slope: jax.Array | None,
) -> OuterState:
    """The state after an update of the set.

    Args:
      config: learning rate and steps.
      outer: the switches.
      state: before the update.
      distilled: the updated set.
      slope: the gradient with respect to the sharpness, a scalar; None without one.
    """
    if state.average is not None:
        decay = _decay(outer, distilled)
        average = jax.tree.map(
            lambda old, new: decay * old + (1 - decay) * new, state.average, distilled
        )
        state = state._replace(average=average)
    if slope is not None:
        updates, optimiser_state = _sharpness_optimiser(config, outer).update(
            slope, state.sharpness_optimiser, state.sharpness
        )
        state = state._replace(
            sharpness=state.sharpness + updates, sharpness_optimiser=optimiser_state
        )
    return state


def _decay(outer: OuterConfig, distilled: DistilledSet) -> jax.Array:
    """The decay in the dtype of the set.

    All weights are computed from it, so they add up to one: 1 - 0.9999 in float32 is 1.7e-4 larger
    than 1e-4.
    """
    return jnp.asarray(outer.average, distilled.labels.dtype)


def averaged(
    outer: OuterConfig, state: OuterState, distilled: DistilledSet, step: jax.Array
) -> DistilledSet:
    """The running average corrected for its start at zero, or the set itself where it is off.

    Args:
      outer: the switches.
      state: after `step` updates.
      distilled: the set after `step` updates.
      step: int32 scalar.
    """
    if state.average is None:
        return distilled
    decay = _decay(outer, distilled)
    # 1 - decay^step, without the cancellation.
    weight = -jnp.expm1(step.astype(decay.dtype) * jnp.log1p(decay - 1))

    def corrected(average: jax.Array, now: jax.Array) -> jax.Array:
        return jnp.where(step == 0, now, average / jnp.where(step == 0, 1.0, weight))

    return jax.tree.map(corrected, state.average, distilled)
