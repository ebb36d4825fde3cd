"""Operations of an outer step of FRePo and RCIG, from the shapes alone.

Counted are the operations of the algorithm with the regression solved directly, as in float64
(`regression.direct`): not the second computation of features that saves memory, not padding, not
superfluous blocks of a factorisation, not the residual that the guard checks, not iterations.

Legend: as in `distill.step`; F operations of one image through the net.
"""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp

from frepo_scale.distill.algorithm import Problem
from frepo_scale.models.registry import feature_dim


def forward_flops(problem: Problem, image_shape: tuple[int, ...]) -> float:
    """F, by the compiler's count for one image (H, W, C)."""
    return _forward_flops(problem.module, tuple(image_shape))


@cache
def _forward_flops(module: nn.Module, image_shape: tuple[int, ...]) -> float:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    lowered = jax.jit(lambda v, x: module.apply(v, x, train=False)).lower(variables, image)
    analysis = lowered.cost_analysis() or {}
    return float(analysis.get("flops", float("nan")))


@cache
def dimension(module: nn.Module, image_shape: tuple[int, ...]) -> int:
    """d, traced once for each net and shape."""
    return feature_dim(module, image_shape)


def outer_step_flops(problem: Problem, image_shape: tuple[int, ...], num_classes: int) -> float:
    """Operations of one outer step over all members and devices: the sum of its phases."""
    return sum(outer_step_phases(problem, image_shape, num_classes).values())


def outer_step_phases(
    problem: Problem, image_shape: tuple[int, ...], num_classes: int
) -> dict[str, float]:
    """Operations of one outer step over all members and devices, by phase.

    For each member: target images forward; synthetic images (twice with flip) forward and back to
    the images; the Gram matrix; one factorisation and two solves, one for the value and one for the
    gradient; seven products of features (R or B, d) with or into (d, K): W, predictions, dW, and
    four of `regression.direct.adjoint`; the online minibatch forward, back to its activations and
    to the parameters.
    """
    flops = forward_flops(problem, image_shape)
    rows = problem.size * (2 if problem.config.flip else 1)
    dim = dimension(problem.module, tuple(image_shape))
    online = min(problem.size, problem.pool.batch)
    unknowns = min(rows, dim)
    of_member = {
        "target features": flops * problem.batch,
        "synthetic forward": flops * rows,
        "synthetic backward": flops * gradient_rows(problem),
        "Gram matrix": 2.0 * rows * dim * unknowns,
        "factorisation and solves": unknowns**3 / 3 + 4.0 * unknowns**2 * num_classes,
        "products with features": 2.0 * dim * num_classes * (2 * problem.batch + 5 * rows),
        "online step": 3 * flops * online * mean_online_steps(problem),
    }
    return {name: problem.pool.members * value for name, value in of_member.items()}


def gradient_rows(problem: Problem) -> int:
    """Rows of the regression through whose images a gradient is taken."""
    chosen = problem.outer.gradient_images
    images = chosen if 0 < chosen < problem.size else problem.size
    return images * (2 if problem.config.flip else 1)


def mean_online_steps(problem: Problem) -> float:
    """Online steps of a member in an outer step, on average where their number is drawn.

    0 where the nets are frozen.
    """
    most = problem.pool.online_steps
    if problem.pool.frozen:
        return 0.0
    return (1 + most) / 2 if problem.pool.draw_online_steps else float(most)


def implicit_flops(problem: Problem, image_shape: tuple[int, ...], iterations: int) -> float:
    """What RCIG computes in addition to FRePo's outer step (`distill.implicit`).

    Each iteration of conjugate gradients passes the synthetic images forward with a tangent (2 F)
    and back to the parameters (3 F). Around the solves are two more of these passes, one over the
    target batch, and the two gradients with respect to images through two tangents (5 F + 2 x 5 F,
    of which FRePo's own 2 F are counted there).
    """
    flops = forward_flops(problem, image_shape)
    rows = gradient_rows(problem)
    nets = flops * (5 * rows * (iterations + 2) + 5 * problem.batch + 13 * rows)
    return problem.pool.members * nets
