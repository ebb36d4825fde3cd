"""The sizes of an outer step on one device of a mesh; the legend is that of `plan.work`."""

from typing import Any, NamedTuple

from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.flops import dimension
from frepo_scale.parallel.mesh import DATA, POOL
from frepo_scale.plan.subject import Subject
from frepo_scale.regression.iterative import LONGEST, SHIFT

# At a ridge of 1e-4 and above the iteration in float32 takes two to four steps.
FEWEST_ITERATIONS = 3
_FLOAT32_EPSILON = 2.0**-24


class Sizes(NamedTuple):
    """The sizes of an outer step on one device of a mesh; see the legend of `plan.work`."""

    data: int
    pool: int
    members: int  # of this row of the mesh
    b: int
    images: int  # synthetic, of this device
    r: int
    R: int
    o: int
    d: int
    K: int
    dual: bool
    unknowns: int  # columns of the matrix of the regression
    stored: int  # its rows on this device
    block: int  # rows of a block; 0 for the library's factorisation
    share: int  # devices that share the matrix
    float64: bool
    iterations: int  # of each of the two solves in float32


def sizes_of(subject: Subject, algorithm: Algorithm, chip: Any) -> Sizes:
    """The sizes for an algorithm on a mesh.

    Args:
      subject: what is planned.
      algorithm: FRePo or a subclass, built for the mesh.
      chip: the devices, a `plan.chips.Chip`.
    """
    problem = algorithm.problem
    data, pool = problem.mesh.shape[DATA], problem.mesh.shape[POOL]
    flip = 2 if problem.config.flip else 1
    images = algorithm.rows // data
    dim = dimension(problem.module, subject.image_shape)
    ridge = problem.ridge.resolved(chip)
    dual = ridge.is_dual(problem.size * flip, dim)
    unknowns = algorithm.rows * flip if dual else dim
    stored, block, share = unknowns, 0, 1
    spread = ridge.spread(unknowns, DATA, data, dual)
    if spread is not None:
        block, share = spread.block, spread.devices
        unknowns = spread.padded(unknowns)
        stored = spread.count(unknowns) * block
    most = problem.pool.batch
    return Sizes(
        data=data,
        pool=pool,
        members=problem.pool.members // pool,
        b=problem.batch // data,
        images=images,
        r=images * flip,
        R=algorithm.rows * flip,
        o=images if problem.size <= most else -(-most // data),
        d=dim,
        K=subject.num_classes,
        dual=dual,
        unknowns=unknowns,
        stored=stored,
        block=block,
        share=share,
        float64=ridge.precision == "float64",
        iterations=_iterations(ridge.ridge, problem.size * flip, ridge.scale == "relative"),
    )


def _iterations(ridge: float, rows: int, relative: bool) -> int:
    """Steps of conjugate gradients in float32, from the condition number of the preconditioned
    system, `shift / ridge`: half its square root for each factor e of the error of 1e-4.

    It is not known for an absolute ridge, whose unit depends on the features: the fewest. Without a
    ridge the most."""
    if ridge <= 0:
        return LONGEST
    if not relative:
        return FEWEST_ITERATIONS
    condition = max(1.0, SHIFT * _FLOAT32_EPSILON * rows / ridge)
    bound = 0.5 * condition**0.5 * 9.9  # ln(2 / 1e-4)
    return int(min(LONGEST, max(FEWEST_ITERATIONS, bound if condition > 1 else 0)))
