"""One pool member's part of RCIG's meta-gradient, in closed form (docs/algorithm.md section 8b).

The member is a frozen net with features F = h(x), plus a linearised body: `out(x) = J(x) tau`, J
the derivative of the logits with respect to all parameters except the head's kernel. tau minimises

    L(tau) = [rho tr(rᵀ (K + rho I)⁻¹ r) + rho ‖tau‖²] / (2 N C),    r = Y_s - J_s tau,

a quadratic with the Hessian `rho A / (N C)`, `A = I + J_sᵀ (K + rho I)⁻¹ J_s`. So tau and the
solution v of `A v = g`, g the derivative of the outer loss with respect to tau, are solves by
conjugate gradients with one factorisation: each iteration is one jvp, one triangular solve and one
vjp over the synthetic images. With `a = (K + rho I)⁻¹ J_s v` and `b = (K + rho I)⁻¹ r` held fixed,
the implicit part of the meta-gradient is that of `bᵀ J_s v - aᵀ J_s tau + aᵀ Y_s - aᵀ K b`.

Rows stay on their devices; only the sums `J_sᵀ z`, of the size of the parameters, and the
right-hand sides of the regression cross the mesh axis "data".

Legend: as in `distill.member_gradient`; p the parameters of the body, a pytree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from frepo_scale.core.checks import check_float, check_int
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Metrics, Problem
from frepo_scale.distill.chosen import Chosen
from frepo_scale.distill.conjugate_gradients import Solved, conjugate_gradients, is_reliable
from frepo_scale.distill.features import chunked_features, map_chunks, sum_over_chunks
from frepo_scale.distill.member_gradient import (
    Gradient,
    Pulled,
    mean_slope,
    outer_loss,
    regression_rows,
    resolved_ridge,
    target_metrics,
    to_images,
)
from frepo_scale.distill.pool import Member
from frepo_scale.models.apply import apply_net
from frepo_scale.parallel.mesh import DATA, platform_of
from frepo_scale.regression.problem import Solution
from frepo_scale.regression.ridge import RidgeConfig, adjoint, coefficients, solve, with_labels

HEAD_KERNEL = ("head", "kernel")
_LEAST = 1.0  # no eigenvalue of A is smaller


@dataclass(frozen=True)
class ImplicitConfig:
    """The solves of the inner problem.

    Attributes:
      inner_steps: largest number of iterations for tau; 0: tau = 0 and no implicit part, which is
        the gradient of FRePo.
      implicit_steps: largest number of iterations for v; 0: no implicit part.
      tolerance: relative residual at which both solves stop.
    """

    inner_steps: int
    implicit_steps: int
    tolerance: float

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_int("ALGORITHM_ARGS: inner_steps", self.inner_steps, 0, 1000)
        check_int("ALGORITHM_ARGS: implicit_steps", self.implicit_steps, 0, 1000)
        check_float("ALGORITHM_ARGS: tolerance", self.tolerance, 0.0, 1.0)


class _Linearised(NamedTuple):
    """The linearised body of a member on this device's rows; products with J and Jᵀ by chunks.

    If some images are chosen for the gradient, the body is linearised on them alone: J is 0 on the
    other rows, whose features are constants.
    """

    problem: Problem
    member: Member
    pulled: Pulled

    @property
    def platform(self) -> str:
        return platform_of(self.problem.mesh)

    def split(self) -> tuple[Any, Callable[[Any], Any]]:
        """The parameters of the body, and the function from them to all parameters."""
        flat = flatten_dict(self.member.params)
        kernel = {name: leaf for name, leaf in flat.items() if name[-2:] == HEAD_KERNEL}
        body = {name: leaf for name, leaf in flat.items() if name not in kernel}
        return body, lambda body: unflatten_dict(body | kernel)

    def outputs(self, body: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits and features with these parameters of the body."""
        merge, dtype = self.split()[1], self.problem.config.feature_dtype
        found = apply_net(
            self.problem.module, merge(body), self.member.stats, images, dtype, train=False
        )
        return found.logits, found.features

    def tangent(self, images: jax.Array, v: Any) -> jax.Array:
        """`J v` of images: (r, K)."""

        def of_chunk(images: jax.Array) -> jax.Array:
            body = self.split()[0]
            return jax.jvp(lambda body: self.outputs(body, images)[0], (body,), (v,))[1]

        return map_chunks(of_chunk, self.problem.config.chunk, self.platform, images)

    def cotangent(self, images: jax.Array, z_rK: jax.Array) -> Any:
        """`Jᵀ z`, summed over all devices."""

        def of_chunk(images: jax.Array, z_rK: jax.Array) -> Any:
            body = self.split()[0]
            return jax.vjp(lambda body: self.outputs(body, images)[0], body)[1](z_rK)[0]

        local = sum_over_chunks(of_chunk, self.problem.config.chunk, self.platform, images, z_rK)
        return jax.lax.psum(local, DATA)

    def of_rows(self, v: Any) -> jax.Array:
        """`J_s v` of the synthetic images, zero on padding."""
        pulled = self.pulled
        return pulled.to_rows(self.tangent(pulled.images, v)) * pulled.rows.weight

    def to_body(self, z_rK: jax.Array) -> Any:
        """`J_sᵀ z` of the synthetic images, summed over all devices."""
        return self.cotangent(self.pulled.images, self.pulled.of(z_rK))

    def to_images(self, tau: Any, v: Any, direct: "_Slopes", implicit: "_Slopes") -> jax.Array:
        """Both parts of the gradient with respect to the rows' images: (r, 2, H, W, C)."""

        def of_chunk(images: jax.Array, *slopes: jax.Array) -> jax.Array:
            def seen(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
                body = self.split()[0]

                def tangent(v: Any) -> Any:
                    return jax.jvp(lambda body: self.outputs(body, images), (body,), (v,))

                (_, features), (j_v, _) = tangent(v)
                return j_v, tangent(tau)[1][0], features

            pull = jax.vjp(seen, images)[1]
            return jnp.stack([pull(slopes[:3])[0], pull(slopes[3:])[0]], axis=1)

        chunk, pulled = self.problem.config.chunk, self.pulled
        slopes = [pulled.of(slope * pulled.rows.weight) for slope in (*direct, *implicit)]
        found = map_chunks(of_chunk, chunk, self.platform, pulled.images, *slopes)
        return pulled.scale * pulled.to_rows(found)


class _Slopes(NamedTuple):
    """The gradient with respect to what the net computes of this device's rows.

    Attributes:
      j_v: of `J v`, (r, K).
      j_tau: of `J tau`, (r, K).
      features: of F, (r, d).
    """

    j_v: jax.Array
    j_tau: jax.Array
    features: jax.Array


class _Solution(NamedTuple):
    """The solution of a system with the matrix A; x and its products are 0 where it is not used.

    Attributes:
      x: the solution, a pytree.
      j_x: `J_s x`, this device's rows (r, K).
      weighed: `(K + rho I)⁻¹ J_s x`, this device's rows (r, K).
      used: whether it is reliable (bool scalar).
      found: what conjugate gradients found.
    """

    x: Any
    j_x: jax.Array
    weighed: jax.Array
    used: jax.Array
    found: Solved


class _Inner(NamedTuple):
    """The regression and the products that both solves need, in the dtype of the images."""

    net: _Linearised
    ridge: RidgeConfig
    solution: Solution

    def inverse(self, z_rK: jax.Array) -> jax.Array:
        """`(K + rho I)⁻¹ z`, this device's rows."""
        solved = with_labels(self.solution, z_rK, self.net.pulled.rows.total, self.ridge, DATA)
        found = coefficients(solved, self.net.pulled.rows.total, self.ridge, DATA)
        return found.astype(z_rK.dtype) * self.net.pulled.rows.weight

    def product(self, v: Any) -> Any:
        """`A v`."""
        return jax.tree.map(jnp.add, v, self.net.to_body(self.inverse(self.net.of_rows(v))))

    def solve(self, right: Any, steps: int, tolerance: float) -> _Solution:
        """`A⁻¹ right`, or zero where conjugate gradients broke down."""
        found = conjugate_gradients(self.product, right, steps, tolerance, self.net.platform)
        x = found.x
        j_x = self.net.of_rows(x)
        weighed = self.inverse(j_x)
        square = optax.tree.vdot(x, x) + jax.lax.psum(jnp.sum(j_x * weighed), DATA)
        used = is_reliable(found, 0.5 * square - optax.tree.vdot(right, x), _LEAST)

        def kept(value: jax.Array) -> jax.Array:
            return jnp.where(used, value, jnp.zeros_like(value))

        return _Solution(jax.tree.map(kept, x), kept(j_x), kept(weighed), used, found)


def implicit_gradient(
    settings: ImplicitConfig,
    problem: Problem,
    member: Member,
    distilled: DistilledSet,
    real: jax.Array,
    batch: Batch,
    sharpness: jax.Array | None,
    chosen: Chosen | None = None,
) -> Gradient:
    """The direct and the implicit part of the gradient; see `member_gradient.MemberGradient`."""
    config, platform = problem.config, platform_of(problem.mesh)
    ridge, unit = resolved_ridge(problem), problem.ridge.unit(problem.size)
    rows = regression_rows(problem, distilled, real)
    net = _Linearised(problem, member, Pulled(rows, chosen, problem.size))
    f_bd, f_rd = (
        chunked_features(problem.module, member, images, config, platform)
        for images in (batch.images, rows.images)
    )
    f_rd = f_rd * rows.weight
    solution = solve(f_rd, rows.y_rK, rows.total, ridge, DATA, unit)
    inner = _Inner(net, ridge, solution)

    # The inner problem.
    right = net.to_body(inner.inverse(rows.y_rK))
    inner_solution = inner.solve(right, settings.inner_steps, settings.tolerance)
    tau, r_rK = inner_solution.x, rows.y_rK - inner_solution.j_x
    solution = with_labels(solution, r_rK, rows.total, ridge, DATA)
    w_dK = solution.w_dK.astype(f_rd.dtype)

    # The outer loss, and its gradient with tau held fixed.
    j_b = net.tangent(batch.images, tau)
    with jax.default_matmul_precision("highest"):
        pred_bK = j_b + f_bd @ w_dK
        loss = outer_loss(pred_bK, batch.labels, sharpness)
        e_bK = loss.error_BK / problem.batch
        dw_dK = jax.lax.psum(f_bd.T @ e_bK, DATA)
    df_rd, dr_rK, _ = adjoint(solution, dw_dK, rows.total, ridge, DATA, unit)
    dr_rK = dr_rK * rows.weight
    direct = _Slopes(jnp.zeros_like(dr_rK), -dr_rK, df_rd)

    # The gradient through tau.
    g = jax.tree.map(jnp.subtract, net.cotangent(batch.images, e_bK), net.to_body(dr_rK))
    through = inner.solve(g, settings.implicit_steps, settings.tolerance)
    a_rK = through.weighed
    b_rK = coefficients(solution, rows.total, ridge, DATA).astype(a_rK.dtype) * rows.weight
    with jax.default_matmul_precision("highest"):
        a_d = jax.lax.psum(f_rd.T @ a_rK, DATA)
        implicit = _Slopes(b_rK, -a_rK, -(a_rK @ w_dK.T) - b_rK @ a_d.T)

    pulled = net.to_images(tau, through.x, direct, implicit)
    grads = to_images(problem, pulled[:, 0], dr_rK)
    implied = to_images(problem, pulled[:, 1], a_rK)
    extra, facts = _safe(grads, implied, inner_solution.used & through.used)
    facts |= _of_solves(inner_solution.found, through.found)
    metrics = target_metrics(problem, pred_bK, batch, loss, solution) | facts
    return Gradient(jax.tree.map(jnp.add, grads, extra), mean_slope(problem, loss), metrics)


def _safe(
    direct: DistilledSet, implicit: DistilledSet, solved: jax.Array
) -> tuple[DistilledSet, Metrics]:
    """The implicit part, clipped per array to the norm of the direct part, and metrics.

    It is dropped where it is not finite or not both systems are `solved`.
    """

    def norms(tree: DistilledSet) -> list[jax.Array]:
        return [jnp.sqrt(jax.lax.psum(jnp.sum(jnp.square(x)), DATA)) for x in tree]

    dtype = direct.labels.dtype
    of_direct, of_implicit = norms(direct), norms(implicit)
    finite = jnp.all(jnp.isfinite(jnp.stack(of_implicit)))
    used = finite & solved
    tiny = jnp.finfo(dtype).tiny
    clipped = [
        jnp.where(used, _clipped(x, norm, limit), 0.0)
        for x, norm, limit in zip(implicit, of_implicit, of_direct, strict=True)
    ]
    facts = {
        "implicit_dropped": (~used).astype(dtype),
        "implicit_ratio": jnp.where(finite, of_implicit[0] / jnp.maximum(of_direct[0], tiny), 0.0),
    }
    return DistilledSet(*clipped), facts


def _of_solves(inner: Solved, through: Solved) -> Metrics:
    """Metrics of both solves."""
    dtype = inner.residual.dtype
    return {
        "inner_residual": inner.residual,
        "implicit_residual": through.residual,
        "inner_last_fall": inner.last,
        "implicit_last_fall": through.last,
        "inner_iterations": inner.steps.astype(dtype),
        "implicit_iterations": through.steps.astype(dtype),
    }


def _clipped(part: jax.Array, norm: jax.Array, limit: jax.Array) -> jax.Array:
    """An array with this norm, scaled down to the norm `limit` if it is above."""
    return part * jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
