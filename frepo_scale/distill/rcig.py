"""RCIG as an `Algorithm`: FRePo's pool and regression with an implicit gradient.

Source: Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients",
2023; docs/algorithm.md section 8b. The inner problem is solved in closed form up to conjugate
gradients, not by steps of an optimiser; see `distill.implicit`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Metrics, Problem
from frepo_scale.distill.flops import implicit_flops
from frepo_scale.distill.frepo import FRePo, FRePoState
from frepo_scale.distill.implicit import HEAD_KERNEL, ImplicitConfig, implicit_gradient
from frepo_scale.distill.member_gradient import MemberGradient, frepo_gradient
from frepo_scale.distill.outer import OuterState
from frepo_scale.distill.pool import PoolState
from frepo_scale.parallel.mesh import over

_SHARE = "implicit_dropped_share"
_OFTEN = 0.01  # share of steps above which the end of the run says it
_EARLY = 0.2  # share of the last iteration above which a solve stopped too early
_BROKEN = (
    "conjugate gradients broke down or gave numbers that are not finite; a higher --gin.RIDGE helps"
)


class RCIGState(NamedTuple):
    """The state of RCIG: that of FRePo (`frepo.FRePoState`), and a count.

    Attributes:
      step: int32 scalar, outer steps done.
      distilled: the set being learned, (n, H, W, C) and (n, K).
      optimiser: state of the optimiser.
      pool: the nets.
      outer: what the switches of `distill.outer` need.
      dropped: int32 scalar, gradients of members without their implicit part.
    """

    step: jax.Array
    distilled: DistilledSet
    optimiser: optax.OptState
    pool: PoolState
    outer: OuterState
    dropped: jax.Array


class RCIG(FRePo):
    """Distillation with a convexified inner problem and its implicit gradient (Loo et al. 2023)."""

    def __init__(
        self,
        problem: Problem,
        inner_steps: int = 20,
        implicit_steps: int = 20,
        tolerance: float = 1e-3,
    ) -> None:
        """Takes the problem and the settings of the solves (`implicit.ImplicitConfig`).

        Raises:
          InputError: the ridge is relative or 0, a setting is out of its bounds, or members or
            batch do not divide over the mesh.
        """
        super().__init__(problem)
        self.implicit = ImplicitConfig(inner_steps, implicit_steps, tolerance)
        if problem.ridge.scale != "absolute":
            raise InputError(
                f"RIDGE_SCALE = {problem.ridge.scale!r} with ALGORITHM = 'rcig'",
                "'absolute': the ridge is a constant of its inner problem",
                "use --gin.RIDGE_SCALE=absolute --gin.RIDGE=5e-4 (the published ridge)",
            )
        if problem.ridge.ridge == 0:
            raise InputError(
                "RIDGE = 0 with ALGORITHM = 'rcig'",
                "a number above 0: without a ridge the inner problem has no unique solution",
                "use --gin.RIDGE=5e-4 (the published ridge)",
            )

    @property
    def member_gradient(self) -> MemberGradient:
        """With the implicit part; without inner steps that of FRePo."""
        if self.implicit.inner_steps == 0:
            return frepo_gradient
        return partial(implicit_gradient, self.implicit)

    def init(self, start: DistilledSet) -> Any:
        """As FRePo's, with a count of 0.

        Raises:
          InputError: the net has no layer `head` whose kernel maps features to logits.
        """
        image = jnp.zeros((1, *start.images.shape[1:]), start.images.dtype)
        shapes = jax.eval_shape(
            lambda: self.problem.module.init(jax.random.key(0), image, train=False)
        )
        if not any(name[-2:] == HEAD_KERNEL for name in flatten_dict(shapes["params"])):
            raise InputError(
                "the net has no layer 'head' with a kernel",
                "a last Dense layer named 'head': its kernel is solved exactly",
                'name it: nn.Dense(self.num_classes, name="head")',
            )
        return RCIGState(*super().init(start), dropped=jnp.int32(0))

    def step(self, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        """As FRePo's; metrics also tell how often the implicit part was dropped.

        `implicit_dropped` is the share of the members in this step, `implicit_dropped_share` that
        in all steps so far. Both are missing without inner steps.
        """
        following, metrics = super().step(state, batch)
        dropped = state.dropped
        if "implicit_dropped" in metrics:
            members = self.problem.pool.members
            now = metrics["implicit_dropped"]
            dropped = dropped + jnp.rint(members * now).astype(jnp.int32)
            share = dropped.astype(now.dtype) / following.step.astype(now.dtype) / members
            metrics[_SHARE] = share
        return RCIGState(*following, dropped=dropped), metrics

    def shardings(self, state: Any) -> Any:
        """As FRePo's."""
        everywhere: Any = over(self.problem.mesh)
        parts: FRePoState = super().shardings(state)
        return RCIGState(*parts, dropped=everywhere)

    def warning(self, row: Mapping[str, float]) -> str:
        """Says that the implicit part was dropped, in whatever step, or that solves stop early.

        If there is nothing of that, it says what FRePo says.
        """
        if share := row.get(_SHARE):
            return (
                f"the implicit part of the gradient was dropped in {100 * share:.2g} % of the"
                f" steps so far: {_BROKEN}"
            )
        early = [name for name in ("inner", "implicit") if self._stops_early(name, row)]
        if early:
            most = max(row[f"{name}_last_fall"] for name in early)
            steps = " and ".join(f"'{name}_steps'" for name in early)
            return (
                "the implicit part of the gradient is not accurate: the last iteration of a solve"
                f" gave {100 * most:.0f} % of its progress; a larger {steps} in"
                " --gin.ALGORITHM_ARGS of a new run helps"
            )
        return super().warning(row)

    def _stops_early(self, name: str, row: Mapping[str, float]) -> bool:
        """Whether one of the two solves ended far from its solution, for lack of iterations."""
        unsolved = row.get(f"{name}_residual", 0.0) > self.implicit.tolerance
        return unsolved and row.get(f"{name}_last_fall", 0.0) > _EARLY

    def summary(self, rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], str]:
        """As FRePo's, with the share of all steps without the implicit part."""
        facts, line = super().summary(rows)
        shares = [row[_SHARE] for row in rows if _SHARE in row]
        facts[_SHARE] = share = shares[-1] if shares else 0.0
        if share > _OFTEN and not line:
            line = (
                f"the implicit part of the gradient was dropped in {100 * share:.2g} % of the"
                f" steps: {_BROKEN}"
            )
        return facts, line

    def flops(self, image_shape: tuple[int, ...], num_classes: int) -> float:
        """Computed from shapes, with all iterations of both solves."""
        found = super().flops(image_shape, num_classes)
        if self.implicit.inner_steps == 0:
            return found
        iterations = self.implicit.inner_steps + self.implicit.implicit_steps
        return found + implicit_flops(self.problem, image_shape, iterations)
