"""The outer step: one update of the distilled set, then one of the pool member that judged it.

Source: ALGORITHM.md section 4. One jitted call per step; every random choice is a function of
(seed, step), so nothing but the target batch comes from the host.

Legend: N synthetic images, B target batch, R rows of the regression (N, or 2N with flip),
d features, K classes, P pool size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from frepo_scale.core.checks import check_bool, check_float, check_int
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import Batch, DistilledSet, centred_onehot
from frepo_scale.distill.pool import (
    Member,
    PoolConfig,
    PoolState,
    fresh_member,
    initial_pool,
    online_step,
    put_member,
    take_member,
)
from frepo_scale.regression.loss import accuracy, label_loss, regression_loss
from frepo_scale.regression.ridge import RidgeConfig, ridge_predict

FINAL_LEARNING_RATE = 0.1  # the cosine ends at this share of the learning rate
NEVER = -1


@dataclass(frozen=True)
class DistillConfig:
    """The distilled set and its optimiser.

    Attributes:
      ipc: images per class.
      steps: outer steps.
      learning_rate: LAMB's, for images and labels.
      flip: whether the regression also sees the left-right mirror images.
      learn_labels: whether labels are learned.
      seed: fixes every random choice of the run.
    """

    ipc: int = 1
    steps: int = 500_000
    learning_rate: float = 3e-4
    flip: bool = False
    learn_labels: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        check_int("IPC", self.ipc, low=1)
        check_int("STEPS", self.steps, low=1)
        check_float("LEARNING_RATE", self.learning_rate, low=0.0, open_low=True)
        check_bool("FLIP", self.flip)
        check_bool("LEARN_LABELS", self.learn_labels)
        check_int("SEED", self.seed, low=0, high=2**31 - 1)


class Best(NamedTuple):
    """The distilled set that did best on the held-out part so far.

    Attributes:
      distilled: the set.
      score: float32 scalar, its held-out accuracy; -1 before the first probe.
      step: int32 scalar, the outer step it is from; `NEVER` before the first probe.
    """

    distilled: DistilledSet
    score: jax.Array
    step: jax.Array


class DistillState(NamedTuple):
    """Everything that changes from step to step, hence everything a checkpoint holds.

    Attributes:
      step: int32 scalar, outer steps done.
      distilled: the set being learned.
      optimiser: LAMB state.
      pool: the nets.
      best: the best set so far; the step hands it through.
      first_bad_step: int32 scalar, first step whose loss was not finite; `NEVER` so far.
    """

    step: jax.Array
    distilled: DistilledSet
    optimiser: optax.OptState
    pool: PoolState
    best: Best
    first_bad_step: jax.Array


def lamb(config: DistillConfig) -> optax.GradientTransformation:
    """LAMB with cosine decay to 10 % over the run; the trust ratio is over the whole leaf."""
    return optax.lamb(learning_rate_schedule(config))


def learning_rate_schedule(config: DistillConfig) -> optax.Schedule:
    """Outer step to learning rate."""
    return optax.cosine_decay_schedule(
        config.learning_rate, config.steps, alpha=FINAL_LEARNING_RATE
    )


def initial_state(
    module: nn.Module, config: DistillConfig, pool: PoolConfig, start: DistilledSet
) -> DistillState:
    """The state before outer step 0.

    Args:
      module: the pool's net.
      config: the distilled set.
      pool: the pool.
      start: real images (N, H, W, C) and initial labels (N, K).
    """
    distilled = DistilledSet(jnp.asarray(start.images), jnp.asarray(start.labels))
    image = jax.ShapeDtypeStruct(distilled.images.shape[1:], distilled.images.dtype)
    return DistillState(
        step=jnp.int32(0),
        distilled=distilled,
        optimiser=lamb(config).init(distilled),
        pool=initial_pool(module, pool, config.seed, image),
        # A copy: the state is donated, and a buffer cannot be donated twice.
        best=Best(jax.tree.map(jnp.copy, distilled), jnp.float32(-1), jnp.int32(NEVER)),
        first_bad_step=jnp.int32(NEVER),
    )


@partial(jax.jit, donate_argnums=0)
def keep_as_best(state: DistillState, score: float) -> DistillState:
    """The state with its current set as the best one; the state passed in is donated."""
    return state._replace(
        best=Best(jax.tree.map(jnp.copy, state.distilled), jnp.float32(score), state.step)
    )


def objective(
    distilled: DistilledSet,
    target_features: jax.Array,
    targets: jax.Array,
    member: Member,
    module: nn.Module,
    ridge: RidgeConfig,
    flip: bool,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The outer loss of one member and its parts (ALGORITHM.md section 4, steps 2 to 4).

    Args:
      distilled: (N, H, W, C) images and (N, K) labels.
      target_features: (B, d), constant.
      targets: (B, K).
      member: the net, used with its running statistics.
      module: the net's definition.
      ridge: the regression.
      flip: whether the mirrored images are regressed on too.
    """
    images, labels = distilled
    if flip:
        images = jnp.concatenate([images, images[:, :, ::-1]])
        labels = jnp.concatenate([labels, labels])
    features = features_of(module, member, images)
    pred = ridge_predict(target_features, features, labels, ridge)
    regression = regression_loss(pred, targets)
    margin = label_loss(distilled.labels)
    loss = regression + margin
    return loss, {
        "loss": loss,
        "regression_loss": regression,
        "label_loss": margin,
        "target_accuracy": accuracy(pred, targets),
    }


def features_of(module: nn.Module, member: Member, images: jax.Array) -> jax.Array:
    """Features (n, d) of images (n, H, W, C) with running BatchNorm statistics."""
    variables = {"params": member.params, "batch_stats": member.stats}
    outputs: Any = module.apply(variables, images, train=False)
    return outputs[1]


def make_outer_step(
    module: nn.Module, config: DistillConfig, pool: PoolConfig, ridge: RidgeConfig
) -> Callable[[DistillState, Batch], tuple[DistillState, dict[str, jax.Array]]]:
    """The outer step as one jitted function `(state, batch) -> (state, metrics)`.

    The state is donated: the one passed in must not be used again. Metrics are float32 scalars on
    the device: loss, regression_loss, label_loss, target_accuracy, online_loss,
    grad_norm_images, grad_norm_labels, learning_rate.
    """
    optimiser = lamb(config)
    schedule = learning_rate_schedule(config)

    def step(state: DistillState, batch: Batch) -> tuple[DistillState, dict[str, jax.Array]]:
        num_classes = state.distilled.labels.shape[-1]
        chosen = jax.random.randint(
            key_for(config.seed, Purpose.MEMBER_CHOICE, state.step), (), 0, pool.size
        )
        member = take_member(state.pool, chosen)

        targets = centred_onehot(batch.labels, num_classes, state.distilled.labels.dtype)
        target_features = features_of(module, member, batch.images)
        grads, metrics = jax.grad(objective, has_aux=True)(
            state.distilled, target_features, targets, member, module, ridge, config.flip
        )
        if not config.learn_labels:
            grads = grads._replace(labels=jnp.zeros_like(grads.labels))
        updates, optimiser_state = optimiser.update(grads, state.optimiser, state.distilled)
        distilled = DistilledSet(*optax.apply_updates(state.distilled, updates))

        member, online = _advance(module, config.seed, pool, member, chosen, state.step, distilled)
        metrics |= {
            "online_loss": online,
            "grad_norm_images": optax.tree.norm(grads.images),
            "grad_norm_labels": optax.tree.norm(grads.labels),
            "learning_rate": jnp.asarray(schedule(state.step)),
        }
        newly_bad = (state.first_bad_step == NEVER) & ~jnp.isfinite(metrics["loss"])
        new_state = DistillState(
            step=state.step + 1,
            distilled=distilled,
            optimiser=optimiser_state,
            pool=put_member(state.pool, chosen, member),
            best=state.best,
            first_bad_step=jnp.where(newly_bad, state.step, state.first_bad_step),
        )
        return new_state, metrics

    return jax.jit(step, donate_argnums=0)


def _advance(
    module: nn.Module,
    seed: int,
    pool: PoolConfig,
    member: Member,
    index: jax.Array,
    step: jax.Array,
    distilled: DistilledSet,
) -> tuple[Member, jax.Array]:
    """ALGORITHM.md section 4, step 6: the member is replaced if too old, else trained once."""
    rows = online_rows(seed, step, index, len(distilled.images), pool.batch)
    trained, loss = online_step(
        module, pool, member, distilled.images[rows], distilled.labels[rows]
    )
    image = jax.ShapeDtypeStruct(distilled.images.shape[1:], distilled.images.dtype)
    # Only the cheap branch sits in the conditional: convolution gradients inside XLA's control
    # flow are many times slower on CPU (STACK.md section 7). One update in T is thrown away.
    member = jax.lax.cond(
        member.age > pool.max_online,
        lambda: fresh_member(
            module, pool, key_for(seed, Purpose.MEMBER_RESET, step, index), image, 0
        ),
        lambda: trained,
    )
    return member, loss


def online_rows(
    seed: int, step: jax.Array, member: jax.Array, n: int, batch: int
) -> jax.Array | slice:
    """Which synthetic images an online step trains on: `min(n, batch)` without replacement.

    All of them where they fit, in their own order: the mean over a batch does not depend on it.
    """
    if n <= batch:
        return slice(None)
    key = key_for(seed, Purpose.ONLINE_BATCH, step, member)
    return jax.random.permutation(key, n)[:batch]
