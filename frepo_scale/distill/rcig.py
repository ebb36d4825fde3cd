"""RCIG as an `Algorithm`: FRePo's pool and regression with an implicit gradient.

Source: Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients",
2023; docs/algorithm.md section 8b. The inner problem is solved in closed form up to conjugate
gradients, not by steps of an optimiser; see `distill.implicit`.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.flops import implicit_flops
from frepo_scale.distill.frepo import FRePo, FRePoState
from frepo_scale.distill.implicit import HEAD_KERNEL, ImplicitConfig, implicit_gradient
from frepo_scale.distill.member_gradient import MemberGradient, frepo_gradient


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
          InputError: the ridge is relative, a setting is out of its bounds, or members or batch do
            not divide over the mesh.
        """
        super().__init__(problem)
        self.implicit = ImplicitConfig(inner_steps, implicit_steps, tolerance)
        if problem.ridge.scale != "absolute":
            raise InputError(
                f"RIDGE_SCALE = {problem.ridge.scale!r} with ALGORITHM = 'rcig'",
                "'absolute': the ridge is a constant of its inner problem",
                "use --gin.RIDGE_SCALE=absolute --gin.RIDGE=5e-4 (the published ridge)",
            )

    @property
    def member_gradient(self) -> MemberGradient:
        """With the implicit part; without inner steps that of FRePo."""
        if self.implicit.inner_steps == 0:
            return frepo_gradient
        return partial(implicit_gradient, self.implicit)

    def init(self, start: DistilledSet) -> FRePoState:
        """As FRePo's.

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
        return super().init(start)

    def warning(self, row: Mapping[str, float]) -> str:
        """Says that the implicit part was dropped, or what FRePo says."""
        if row.get("implicit_dropped"):
            return (
                "the implicit part of the gradient was dropped: conjugate gradients did not"
                " converge or gave numbers that are not finite; a higher --gin.RIDGE helps"
            )
        return super().warning(row)

    def flops(self, image_shape: tuple[int, ...], num_classes: int) -> float:
        """Computed from shapes, with all iterations of both solves."""
        found = super().flops(image_shape, num_classes)
        if self.implicit.inner_steps == 0:
            return found
        iterations = self.implicit.inner_steps + self.implicit.implicit_steps
        return found + implicit_flops(self.problem, image_shape, iterations)
