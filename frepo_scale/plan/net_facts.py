"""What one image costs in a net: operations, elements moved and elements stored, from its trace.

Convolutions and matrix products move their inputs and outputs, poolings and other windows too.
Everything else (bias, activation, norm in evaluation mode) is taken to be fused with them.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.distill.algorithm import Problem

_PRODUCTS = ("conv_general_dilated", "dot_general")
_WINDOWS = ("reduce_window", "select_and_scatter", "reduce_sum", "reduce_max", "cumsum")


class NetFacts(NamedTuple):
    """One image in a net; numbers of elements, not bytes.

    Attributes:
      moved: read and written in a forward pass, parameters left out.
      products: outputs of all convolutions and matrix products.
      widest: the largest sum of what one operation of a forward pass reads and writes.
      parameters: of the net.
    """

    moved: int
    products: int
    widest: int
    parameters: int


def net_facts(problem: Problem, image_shape: tuple[int, ...]) -> NetFacts:
    """The facts of a problem's net for images (H, W, C)."""
    return _facts(problem.module, tuple(image_shape))


@cache
def _facts(module: nn.Module, image_shape: tuple[int, ...]) -> NetFacts:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    trace = jax.make_jaxpr(lambda x, v: module.apply(v, x, train=False))(image, variables)
    moved = products = widest = 0
    for equation in _equations(trace.jaxpr):
        name = equation.primitive.name
        if name not in _PRODUCTS and not name.startswith(_WINDOWS):
            continue
        into = _size(equation.invars[0])
        out = sum(_size(x) for x in equation.outvars)
        moved += into + out
        widest = max(widest, into + out)
        if name in _PRODUCTS:
            products += out
    parameters = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables["params"]))
    return NetFacts(moved, products, widest, parameters)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, also those of inner functions."""
    for equation in jaxpr.eqns:
        inner = [
            part
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if hasattr(part, "eqns") or hasattr(part, "jaxpr")
        ]
        for part in inner:
            yield from _equations(getattr(part, "jaxpr", part))
        if not inner:
            yield equation


def _size(variable: Any) -> int:
    return int(np.prod(variable.aval.shape))
