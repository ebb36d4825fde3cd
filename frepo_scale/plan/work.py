"""The work of one device in an outer step by phase: operations, memory traffic and collectives.

`distill.flops` counts the operations of the algorithm. Counted here is what one device executes:
also the second computation of features that saves memory, rows that every device computes, and the
iterations of the regression in float32. It follows `distill.step`, `distill.member_gradient` and
`regression`; the figures are those of the formulas below, not of a compiled program.

Per image, A elements are moved in a forward pass and S are the outputs of convolutions and matrix
products (`plan.net_facts`); a backward pass to the images moves A + S. s bytes per element.

  whitening            2 E D operations (float32), 8 D bytes an image and the matrix once
  target features      b F operations, s b A bytes
  synthetic forward    r F, s r A
  recomputation        r F, s r A
  synthetic backward   r F, s r (A + S)
  Gram matrix          2 h d n (dual) or 2 r H n (primal)
  factorisation        n^3 / 3 (library) or 2 h n^2 + 2 n^2 c (blocked: it also multiplies zeros)
  solves               2 n^2 K each (library) or 4 h n K (blocked)
  products             2 r d K each
  optimiser            28 bytes an element of the distilled set
  online step          3 o F, s o (4 A + 2 S) bytes, and 28 bytes a parameter

RCIG's are in `plan.implicit`.

Legend: b target images of this device, r rows of the regression here and R in all, o images of an
online step here, d features, K classes, n unknowns (padded to blocks of c rows), h rows of their
matrix on this device and H on all that share it (h = H = n where nothing is shared), D pixels of an
image, E of one of its grids.
"""

from typing import Any

from frepo_scale.data.whitening import whitened_size
from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.flops import (
    forward_flops,
    gradient_rows,
    mean_online_steps,
    outer_step_phases,
)
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.rcig import RCIG
from frepo_scale.parallel.mesh import DATA, POOL
from frepo_scale.plan.implicit import implicit_phases
from frepo_scale.plan.net_facts import net_facts
from frepo_scale.plan.phase import GATHER, REDUCE, SCATTER, Exchange, Phase
from frepo_scale.plan.sizes import Sizes, sizes_of
from frepo_scale.plan.subject import Subject

_OPTIMISER_BYTES = 28  # value, gradient and two moments read, value and moments written


def phases(subject: Subject, algorithm: Algorithm, chip: Any, on_device: bool) -> list[Phase]:
    """The phases of an outer step in their order.

    Of an algorithm that is not FRePo or a subclass, one phase with the total that it states.

    Args:
      subject: what is planned.
      algorithm: built for the mesh.
      chip: the devices.
      on_device: whether pixels become net inputs on the devices.
    """
    problem = algorithm.problem
    total = algorithm.flops(subject.image_shape, subject.num_classes)
    devices = problem.mesh.shape[DATA] * problem.mesh.shape[POOL]
    nets = net_precision(problem.config.feature_dtype, problem.config.matmul_precision)
    if not isinstance(algorithm, FRePo):
        return [Phase("outer step", total, total / devices, nets, 0.0)]
    counted = outer_step_phases(problem, subject.image_shape, subject.num_classes)
    sizes = sizes_of(subject, algorithm, chip)
    found = [
        *([_whitening(subject, algorithm, devices)] if on_device and subject.whitened else []),
        *_nets(subject, algorithm, sizes, counted, nets),
        *_regression(sizes, counted),
    ]
    if isinstance(algorithm, RCIG) and algorithm.implicit.inner_steps:
        found += implicit_phases(subject, algorithm, sizes, nets)
        counted |= {phase.name: phase.counted for phase in found[-2:]}
    rest = total - sum(counted.values())
    if rest > 1e-6 * total:  # of another subclass, whose phases are not known
        found.append(Phase("further operations", rest, rest / devices, nets, 0.0))
    found.append(_optimiser(subject, sizes))
    if not problem.pool.frozen:
        found.append(_online(subject, algorithm, sizes, counted))
    return found


def net_precision(dtype: str, matmul: str) -> str:
    """The key of `Chip.rates` for nets in a dtype at a matrix precision."""
    return "bfloat16" if dtype == "bfloat16" else matmul


def _whitening(subject: Subject, algorithm: Algorithm, devices: int) -> Phase:
    images, size = algorithm.batch_size / devices, whitened_size(subject.image_shape)
    return Phase(
        "whitening",
        0.0,  # preprocessing, which the algorithm does not count
        images * 2.0 * size * subject.pixels,
        "highest",
        images * 8.0 * subject.pixels + 4.0 * size**2,
    )


def _nets(
    subject: Subject, algorithm: Algorithm, sizes: Sizes, counted: dict[str, float], precision: str
) -> list[Phase]:
    problem = algorithm.problem
    flops, net = (
        forward_flops(problem, subject.image_shape),
        net_facts(problem, subject.image_shape),
    )
    size = 2 if problem.config.feature_dtype == "bfloat16" else 4
    forward, backward = size * net.moved, size * (net.moved + net.products)
    pulled = sizes.r * gradient_rows(problem) / sizes.R
    rows = {
        "target features": (sizes.b, forward),
        "synthetic forward": (sizes.r, forward),
        "recomputation": (pulled, forward),
        "synthetic backward": (pulled, backward),
    }
    return [
        Phase(
            name,
            counted.get(name, 0.0),
            sizes.members * images * flops,
            precision,
            float(sizes.members * images * moved),
        )
        for name, (images, moved) in rows.items()
    ]


def _regression(sizes: Sizes, counted: dict[str, float]) -> list[Phase]:
    n, share, m = float(sizes.unknowns), sizes.share, sizes.members
    stored, block = float(sizes.stored), sizes.block
    r, R, d, K = float(sizes.r), float(sizes.R), float(sizes.d), float(sizes.K)
    s, precision = (8, "float64") if sizes.float64 else (4, "highest")
    solves = 2 if sizes.float64 else 2 * sizes.iterations
    # Products with the features of this device: W and its gradient, then two outer products.
    products = 5 if sizes.float64 else 2 * 2 * sizes.iterations + 2
    gram = 2 * stored * d * n if sizes.dual else 2 * r * (stored * share) * n
    # Blocked: each device also corrects every diagonal block.
    factorisation = 2 * stored * n**2 + 2 * n**2 * block if block else n**3 / 3
    of_solve = (4 if block else 2) * stored * n * K
    passes = n / block if block else 3  # over the matrix; blocked: once for each panel
    gathered = 4 * R * d if sizes.dual else s * (stored * share) * n
    kind = GATHER if sizes.dual else (SCATTER if share > 1 else REDUCE)
    both = (Exchange(GATHER, DATA, s * R * K),) if sizes.dual else ()
    each = (*both, Exchange(REDUCE, DATA, s * d * K))
    spread = (Exchange(REDUCE, DATA, s * n * n), Exchange(REDUCE, DATA, 2 * s * n * K * solves))
    return [
        Phase(
            "Gram matrix",
            counted["Gram matrix"],
            m * gram,
            precision,
            m * s * ((R if sizes.dual else r) * d + stored * n),
            (Exchange(kind, DATA, gathered),) * m,
        ),
        Phase(
            "factorisation and solves",
            counted["factorisation and solves"],
            m * (factorisation + solves * of_solve),
            precision,
            m * s * (passes + 2 * solves) * stored * n,
            spread * m if share > 1 else (),
        ),
        Phase(
            "products with features",
            counted["products with features"],
            m * 2 * d * K * (2 * sizes.b + products * r),
            precision,
            m * s * ((products + 2) * r * d + 2 * sizes.b * d),
            each * (m * (solves + 1)),
        ),
    ]


def _optimiser(subject: Subject, sizes: Sizes) -> Phase:
    elements = sizes.images * (subject.pixels + sizes.K)
    gradient = Exchange(REDUCE, POOL, 4.0 * elements)
    return Phase("optimiser", 0.0, 0.0, "highest", float(_OPTIMISER_BYTES * elements), (gradient,))


def _online(
    subject: Subject, algorithm: Algorithm, sizes: Sizes, counted: dict[str, float]
) -> Phase:
    problem = algorithm.problem
    net, steps = net_facts(problem, subject.image_shape), mean_online_steps(problem)
    size = 2 if problem.pool.dtype == "bfloat16" else 4
    times = sizes.members * steps
    moved = size * sizes.o * (4 * net.moved + 2 * net.products) + _OPTIMISER_BYTES * net.parameters
    exchanges = [Exchange(REDUCE, DATA, times * 4.0 * net.parameters)]
    if problem.size > problem.pool.batch:
        minibatch = 4.0 * problem.pool.batch * (subject.pixels + sizes.K)
        exchanges.append(Exchange(SCATTER, DATA, times * minibatch))
    return Phase(
        "online step",
        counted["online step"],
        times * 3 * sizes.o * forward_flops(problem, subject.image_shape),
        net_precision(problem.pool.dtype, problem.config.matmul_precision),
        times * moved,
        tuple(exchanges),
    )
