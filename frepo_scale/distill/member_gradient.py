"""One pool member's part of the meta-gradient: FRePo's regression (docs/algorithm.md section 4).

No gradient is taken through collectives: `regression.ridge` has its own backward pass, which gives
the gradient with respect to features. Each device computes the gradient of its own images from it.

Legend: n synthetic images on this device (padded), r rows of the regression here (n, or 2n with
flip), b target images here, B of all devices, d features, K classes.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from frepo_scale.core.types import Batch, DistilledSet, centred_onehot
from frepo_scale.distill.algorithm import Metrics, Problem
from frepo_scale.distill.chosen import Chosen
from frepo_scale.distill.features import chunked_features, chunked_image_gradient
from frepo_scale.distill.pool import Member
from frepo_scale.parallel.mesh import DATA, platform_of
from frepo_scale.regression.loss import RowLoss, cross_entropy_loss, squared_loss
from frepo_scale.regression.problem import Solution
from frepo_scale.regression.ridge import RidgeConfig, adjoint, solve


class Gradient(NamedTuple):
    """A gradient of the outer loss.

    Attributes:
      distilled: with respect to this device's images and labels.
      sharpness: with respect to the sharpness, complete on every device; None without one.
      metrics: scalars by name, the same on every device of the axis "data".
    """

    distilled: DistilledSet
    sharpness: jax.Array | None
    metrics: Metrics


class MemberGradient(Protocol):
    """Computes the gradient of one member, inside `shard_map` over the mesh."""

    def __call__(
        self,
        problem: Problem,
        member: Member,
        distilled: DistilledSet,
        real: jax.Array,
        batch: Batch,
        sharpness: jax.Array | None,
        chosen: Chosen | None,
    ) -> Gradient:
        """The gradient.

        Args:
          problem: the input of the algorithm.
          member: the net.
          distilled: this device's images (n, H, W, C) and labels (n, K).
          real: (n,) 1 for an image, 0 for padding.
          batch: this device's target images (b, H, W, C) and labels (b,).
          sharpness: scalar; None where the loss has none.
          chosen: the images that get a gradient; None: all. Their gradients are scaled by N over
            their number, so that the mean over all choices is the gradient.
        """


class Rows(NamedTuple):
    """This device's rows of the regression.

    Attributes:
      images: (r, H, W, C).
      y_rK: labels.
      weight: (r, 1), 1 for an image, 0 for padding.
      total: R, over all devices, without padding.
    """

    images: jax.Array
    y_rK: jax.Array
    weight: jax.Array
    total: int


class Pulled(NamedTuple):
    """The rows through whose images the gradient is taken: all of them, or those of chosen images.

    Attributes:
      rows: all rows.
      chosen: the images; None: all.
      size: N.
    """

    rows: Rows
    chosen: Chosen | None
    size: int

    @property
    def images(self) -> jax.Array:
        """This device's images, mirrored ones included."""
        return self.of(self.rows.images)

    @property
    def scale(self) -> float:
        """What makes the mean over all choices the gradient."""
        return 1.0 if self.chosen is None else self.size / self.chosen.total

    def _parts(self) -> int:
        return self.rows.total // self.size  # 2 with mirrored images

    def of(self, x_r: jax.Array) -> jax.Array:
        """The rows of `images`, of an array with all rows (r, ...)."""
        if self.chosen is None:
            return x_r
        return jnp.concatenate([self.chosen.spread(x) for x in jnp.split(x_r, self._parts())])

    def to_rows(self, y: jax.Array) -> jax.Array:
        """An array with all rows (r, ...) from that of `images`; 0 for the others."""
        if self.chosen is None:
            return y
        n = len(self.rows.images) // self._parts()
        return jnp.concatenate([self.chosen.collect(x, n) for x in jnp.split(y, self._parts())])


def regression_rows(problem: Problem, distilled: DistilledSet, real: jax.Array) -> Rows:
    """The n images and labels, then the mirrored ones if the regression uses them: r rows.

    `real` (n,) is 1 for images of the set and 0 for padding.
    """
    images, labels = distilled
    if not problem.config.flip:
        return Rows(images, labels, real[:, None], problem.size)
    mirrored = jnp.concatenate([images, images[:, :, ::-1]])
    weight = jnp.concatenate([real, real])[:, None]
    return Rows(mirrored, jnp.concatenate([labels, labels]), weight, 2 * problem.size)


def to_images(problem: Problem, d_seen: jax.Array, dy_rK: jax.Array) -> DistilledSet:
    """The gradient with respect to the n images and labels, from that of their r rows.

    `d_seen` (r, H, W, C) and `dy_rK` are those of the images and labels as the regression has them.
    """
    if not problem.config.flip:
        return DistilledSet(d_seen, dy_rK)
    n = len(d_seen) // 2
    return DistilledSet(d_seen[:n] + d_seen[n:, :, ::-1], dy_rK[:n] + dy_rK[n:])


def outer_loss(pred_bK: jax.Array, labels: jax.Array, sharpness: jax.Array | None) -> RowLoss:
    """The squared error to centred one-hot labels, or the cross-entropy if there is a sharpness."""
    if sharpness is not None:
        return cross_entropy_loss(pred_bK, labels, sharpness)
    return squared_loss(pred_bK, centred_onehot(labels, pred_bK.shape[-1], pred_bK.dtype))


def target_metrics(
    problem: Problem, pred_bK: jax.Array, batch: Batch, loss: RowLoss, solution: Solution
) -> Metrics:
    """Means over the target batch, and what the guard of the regression did."""
    dtype = pred_bK.dtype
    hits = jnp.sum(jnp.argmax(pred_bK, -1) == batch.labels, dtype=dtype)
    in_force = solution.ridge
    unit = problem.ridge.unit(problem.size)
    if unit is not None:
        in_force = solution.rho.astype(dtype) / unit
    return {
        "regression_loss": jax.lax.psum(jnp.sum(loss.loss_B), DATA) / problem.batch,
        "target_accuracy": jax.lax.psum(hits, DATA) / problem.batch,
        "ridge_raised": solution.raised.astype(dtype),
        "ridge_in_force": in_force.astype(dtype),
    }


def mean_slope(problem: Problem, loss: RowLoss) -> jax.Array | None:
    """The gradient with respect to the sharpness."""
    if loss.slope_B is None:
        return None
    return jax.lax.psum(jnp.sum(loss.slope_B), DATA) / problem.batch


def resolved_ridge(problem: Problem) -> RidgeConfig:
    """The regression's settings for the devices of the mesh."""
    return problem.ridge.resolved(problem.mesh.devices.flat[0])


def frepo_gradient(
    problem: Problem,
    member: Member,
    distilled: DistilledSet,
    real: jax.Array,
    batch: Batch,
    sharpness: jax.Array | None,
    chosen: Chosen | None = None,
) -> Gradient:
    """The gradient through the regression on a frozen net: section 4, steps 2 to 4."""
    config, module, platform = problem.config, problem.module, platform_of(problem.mesh)
    ridge, unit = resolved_ridge(problem), problem.ridge.unit(problem.size)
    rows = regression_rows(problem, distilled, real)

    f_bd = chunked_features(module, member, batch.images, config, platform)
    f_rd = chunked_features(module, member, rows.images, config, platform) * rows.weight
    solution = solve(f_rd, rows.y_rK, rows.total, ridge, DATA, unit)
    w_dK = solution.w_dK.astype(f_rd.dtype)
    with jax.default_matmul_precision("highest"):
        pred_bK = f_bd @ w_dK
        loss = outer_loss(pred_bK, batch.labels, sharpness)
        dw_dK = jax.lax.psum(f_bd.T @ loss.error_BK, DATA) / problem.batch
    df_rd, dy_rK, error = adjoint(solution, dw_dK, rows.total, ridge, DATA, unit)
    pulled = Pulled(rows, chosen, problem.size)
    d_seen = chunked_image_gradient(
        module, member, pulled.images, pulled.of(df_rd * rows.weight), config, platform
    )
    d_seen = pulled.scale * pulled.to_rows(d_seen) if chosen is not None else d_seen
    metrics = target_metrics(problem, pred_bK, batch, loss, solution)
    metrics["gradient_error_bound"] = error.astype(pred_bK.dtype)
    return Gradient(
        to_images(problem, d_seen, dy_rK * rows.weight), mean_slope(problem, loss), metrics
    )
