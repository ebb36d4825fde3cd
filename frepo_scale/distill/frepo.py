"""FRePo as an `Algorithm`: the distilled set, its optimiser, and a pool of nets trained on it.

Source: docs/algorithm.md sections 2 to 4. The outer step itself is in `distill.step`.

Images, labels and their moments are sharded over the mesh axis "data", padded with zeros so
that they divide; the pool is sharded over "pool". Padding never gets a gradient, so its images and
labels stay zero and change no norm or sum. (AdaBelief adds a constant to its second moments, also
to those of padding; they are not saved and have no effect.)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Algorithm, Metrics, Problem
from frepo_scale.distill.flops import outer_step_flops
from frepo_scale.distill.frozen import check_frozen, filled, frozen_pool
from frepo_scale.distill.member_gradient import MemberGradient, frepo_gradient
from frepo_scale.distill.outer import (
    OuterState,
    averaged,
    clipped,
    initial_outer_state,
    learning_rate_schedule,
    optimiser,
    updated,
)
from frepo_scale.distill.pool import PoolState, initial_pool
from frepo_scale.distill.step import make_meta_gradient, make_pool_update
from frepo_scale.parallel.mesh import DATA, POOL, check_sizes, over
from frepo_scale.regression.conjugate import ACCEPTABLE

_OFTEN = 0.5  # share of steps with a raised ridge above which another ridge is advised


class FRePoState(NamedTuple):
    """The state of FRePo.

    Attributes:
      step: int32 scalar, outer steps done.
      distilled: the set being learned, (n, H, W, C) and (n, K).
      optimiser: state of the optimiser.
      pool: the nets.
      outer: what the switches of `distill.outer` need; without arrays where they are off.
    """

    step: jax.Array
    distilled: DistilledSet
    optimiser: optax.OptState
    pool: PoolState
    outer: OuterState


class FRePo(Algorithm):
    """Neural feature regression with a pool of nets (Zhou, Nezhadarya and Ba, NeurIPS 2022)."""

    progress = ("loss", "target_accuracy")

    def __init__(self, problem: Problem) -> None:
        """Takes the problem.

        Raises:
          InputError: members or batch do not divide over the mesh, or the settings of a pool of
            frozen nets contradict each other.
        """
        super().__init__(problem)
        check_frozen(problem.pool)
        check_sizes(problem.mesh, problem.pool.members, problem.batch)

    @property
    def batch_size(self) -> int:
        """M B: every member of an outer step has its own target batch."""
        return self.problem.pool.members * self.problem.batch

    @property
    def rows(self) -> int:
        """The smallest multiple of the mesh axis "data" that holds N images."""
        data = self.problem.mesh.shape[DATA]
        return -(-self.problem.size // data) * data

    @property
    def member_gradient(self) -> MemberGradient:
        """The gradient of the outer loss for one member."""
        return frepo_gradient

    def init(self, start: DistilledSet) -> FRePoState:
        """Zero moments, and a pool of fresh nets with staggered ages, or of frozen nets."""
        config, outer = self.problem.config, self.problem.outer
        image = jax.ShapeDtypeStruct(start.images.shape[1:], start.images.dtype)
        make = frozen_pool if self.problem.pool.frozen else initial_pool
        return FRePoState(
            step=jnp.int32(0),
            distilled=start,
            optimiser=optimiser(config, outer).init(start),
            pool=make(self.problem.module, self.problem.pool, config.seed, image),
            outer=initial_outer_state(config, outer, start),
        )

    def loaded(self, state: FRePoState) -> FRePoState:
        """The state with the nets of `POOL_WEIGHTS` in the pool."""
        if not self.problem.pool.frozen:
            return state
        sharding = over(self.problem.mesh, POOL)
        return state._replace(pool=filled(state.pool, self.problem.nets, sharding))

    def step(self, state: FRePoState, batch: Batch) -> tuple[FRePoState, Metrics]:
        """One update of the distilled set, then online steps of each member that was used.

        Frozen nets take none, and there is no online_loss.

        Rows m B to (m + 1) B of the batch belong to member m. Metrics are means over the members:
        loss, regression_loss, label_loss, target_accuracy, online_loss, ridge_raised,
        ridge_in_force, gradient_error_bound, grad_norm_images, grad_norm_labels, learning_rate, and
        with the cross-entropy inverse_temperature.
        """
        problem, config, outer = self.problem, self.problem.config, self.problem.outer
        members = problem.pool.members
        by_member = jax.tree.map(lambda x: x.reshape(members, problem.batch, *x.shape[1:]), batch)
        grads, slope, metrics = make_meta_gradient(problem, self.member_gradient)(
            state.step, state.distilled, state.outer.sharpness, state.pool, by_member
        )
        if not config.learn_labels:
            grads = grads._replace(labels=jnp.zeros_like(grads.labels))
        norms = {f"grad_norm_{name}": optax.tree.norm(x) for name, x in grads._asdict().items()}
        grads, following = clipped(outer, state.outer, grads)
        updates, moments = optimiser(config, outer).update(grads, state.optimiser, state.distilled)
        distilled = DistilledSet(*optax.apply_updates(state.distilled, updates))
        following = updated(config, outer, following, distilled, slope)
        pool = state.pool
        if not problem.pool.frozen:
            update = make_pool_update(problem)
            pool, metrics["online_loss"] = update(state.step, distilled, state.pool)
        rate = learning_rate_schedule(config, outer)(state.step)
        metrics |= norms | {"learning_rate": jnp.asarray(rate)}
        if following.sharpness is not None:
            metrics["inverse_temperature"] = jnp.exp(following.sharpness)
        return FRePoState(state.step + 1, distilled, moments, pool, following), metrics

    def distilled(self, state: FRePoState) -> DistilledSet:
        """The set being learned, or its running average."""
        return averaged(self.problem.outer, state.outer, state.distilled, state.step)

    def shardings(self, state: FRePoState) -> Any:
        """Rows over "data" where they divide, members over "pool"."""
        mesh = self.problem.mesh

        def rows(leaf: jax.Array) -> jax.sharding.Sharding:
            divides = leaf.ndim and len(leaf) % mesh.shape[DATA] == 0
            return over(mesh, DATA) if divides else over(mesh)

        return FRePoState(
            step=over(mesh),  # type: ignore[arg-type]
            distilled=jax.tree.map(rows, state.distilled),
            optimiser=jax.tree.map(rows, state.optimiser),
            pool=jax.tree.map(lambda _: over(mesh, POOL), state.pool),
            outer=jax.tree.map(rows, state.outer),
        )

    def without_padding(self, state: FRePoState) -> FRePoState:
        """The state with N rows."""
        return _map_rows(lambda x: x[: self.problem.size], state)

    def with_padding(self, state: FRePoState) -> FRePoState:
        """The state with zero rows behind the N images and their moments."""
        extra = self.rows - self.problem.size
        return _map_rows(lambda x: jnp.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), state)

    def warning(self, row: Mapping[str, float]) -> str:
        """Says that the ridge was raised, or that the gradient may be inaccurate."""
        error = row.get("gradient_error_bound", 0.0)
        if not row.get("ridge_raised") and error > ACCEPTABLE:
            return (
                f"the gradient of the regression may have a relative error of {error:.1e}:"
                " a higher --gin.RIDGE lowers it"
            )
        if not row.get("ridge_raised"):
            return ""
        return (
            f"the regression is not accurate with RIDGE = {self.problem.ridge.ridge:g}:"
            f" the ridge was raised to {row['ridge_in_force']:.1e}"
        )

    def summary(self, rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], str]:
        """The share of the logged steps with a raised ridge; advice if it is above one half."""
        raised = [row for row in rows if row.get("ridge_raised")]
        logged = sum("ridge_raised" in row for row in rows)
        share = len(raised) / max(logged, 1)
        if share <= _OFTEN:
            return {"ridge_raised_share": share}, ""
        ridge = max(row.get("ridge_in_force", 0.0) for row in raised)
        return {"ridge_raised_share": share}, (
            f"the ridge was raised in {100 * share:.0f} % of the logged steps: set"
            f" --gin.RIDGE={rounded_up(ridge)} in a new run"
        )

    def flops(self, image_shape: tuple[int, ...], num_classes: int) -> float:
        """Computed from shapes; see `distill.flops`."""
        return outer_step_flops(self.problem, image_shape, num_classes)


def rounded_up(ridge: float) -> str:
    """A ridge of one digit that is not below `ridge`, so that it need not be raised again."""
    text = f"{ridge:.0e}"
    if float(text) < (1 - 1e-4) * ridge:  # rounded by float32, it is no larger
        text = f"{ridge + 0.5 * 10.0 ** math.floor(math.log10(ridge)):.0e}"
    return text


def _map_rows(function: Callable[[jax.Array], jax.Array], state: FRePoState) -> FRePoState:
    """`function` on every array that has a row per synthetic image."""

    def on_rows(leaf: jax.Array) -> jax.Array:
        return function(leaf) if leaf.ndim else leaf

    return state._replace(
        distilled=jax.tree.map(on_rows, state.distilled),
        optimiser=jax.tree.map(on_rows, state.optimiser),
        outer=jax.tree.map(on_rows, state.outer),
    )
