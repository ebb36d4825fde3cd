"""The work of RCIG's implicit gradient (`distill.implicit`) on one device.

Each iteration of both solves by conjugate gradients passes the synthetic images forward with a
tangent and back to the parameters, and solves the regression once. Around the solves are two more
of these passes, one over the target batch, and the two gradients with respect to images through
two tangents. With the legend of `plan.work`, p parameters of a net without its head's kernel, and
t iterations of both solves together:

  nets     (5 r (t + 2) + 5 b + 13 r) F, s ((r (t + 2) + b) (6 A + 2 S) + r (13 A + 9 S)) bytes
  sums     t + 3 of 4 p bytes over the axis "data"
  solves   t + 4 of the regression with the factor that exists: for each iteration, the first
           right-hand side, the check of each solution, and the labels that tau leaves
"""

from frepo_scale.distill.flops import forward_flops, gradient_rows, implicit_flops
from frepo_scale.distill.rcig import RCIG
from frepo_scale.parallel.mesh import DATA
from frepo_scale.plan.net_facts import net_facts
from frepo_scale.plan.phase import GATHER, REDUCE, Exchange, Phase
from frepo_scale.plan.sizes import Sizes
from frepo_scale.plan.subject import Subject

GRADIENT, SOLVES = "implicit gradient", "implicit solves"


def implicit_phases(subject: Subject, algorithm: RCIG, sizes: Sizes, precision: str) -> list[Phase]:
    """The passes through the nets, and the solves between them.

    Args:
      subject: what is planned.
      algorithm: built for the mesh, with inner steps.
      sizes: of the step.
      precision: of the nets, a key of `Chip.rates`.
    """
    problem = algorithm.problem
    iterations = algorithm.implicit.inner_steps + algorithm.implicit.implicit_steps
    counted = implicit_flops(problem, subject.image_shape, iterations)
    net = net_facts(problem, subject.image_shape)
    s = 2 if problem.config.feature_dtype == "bfloat16" else 4
    rows = sizes.r * gradient_rows(problem) / sizes.R
    both_ways = 6 * net.moved + 2 * net.products
    moved = (rows * (iterations + 2) + sizes.b) * both_ways
    moved += rows * (13 * net.moved + 9 * net.products)
    body = net.parameters - sizes.d * sizes.K
    sums = (Exchange(REDUCE, DATA, 4.0 * body),) * (sizes.members * (iterations + 3))
    passes = 5 * rows * (iterations + 2) + 5 * sizes.b + 13 * rows
    operations = passes * forward_flops(problem, subject.image_shape)
    return [
        Phase(
            *(GRADIENT, counted, sizes.members * operations, precision),
            *(sizes.members * s * moved, sums),
        ),
        _solves(sizes, iterations + 4),
    ]


def _solves(sizes: Sizes, count: int) -> Phase:
    """Solves of the regression for other labels, as `regression.ridge.with_labels` has them."""
    n, stored, r, d, K = (
        float(x) for x in (sizes.unknowns, sizes.stored, sizes.r, sizes.d, sizes.K)
    )
    s, precision = (8, "float64") if sizes.float64 else (4, "highest")
    # In float32 each solve is a number of iterations with two products each.
    solves = 1 if sizes.float64 else sizes.iterations
    products = 2 * solves
    if sizes.float64 and sizes.dual:
        products = 1
    operations = solves * (4 if sizes.block else 2) * stored * n * K + products * 2 * r * d * K
    moved = s * (2 * solves * stored * n + products * r * d)
    gathered = (Exchange(GATHER, DATA, s * sizes.R * K),) if sizes.dual else ()
    each = (*gathered, Exchange(REDUCE, DATA, s * d * K))
    spread = (Exchange(REDUCE, DATA, 2 * s * n * K),) if sizes.share > 1 else ()
    times = sizes.members * count
    # The algorithm counts its nets alone here.
    return Phase(
        *(SOLVES, 0.0, times * operations, precision, times * moved),
        (*each, *spread) * (times * solves),
    )
