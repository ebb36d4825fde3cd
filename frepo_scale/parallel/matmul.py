"""The precision of float32 products (matrix products and convolutions) on TPUs and GPUs."""

import os
from contextlib import AbstractContextManager

import jax

from frepo_scale.core.errors import InputError

# By `jax.lax.Precision`: "default" is bfloat16 on TPUs and TF32 on GPUs that have it; "high" is
# three bfloat16 passes on TPUs and TF32 on GPUs; "highest" is float32. CPUs compute all in float32.
MATMUL_PRECISIONS = ("default", "high", "highest")
_VARIABLE = "JAX_DEFAULT_MATMUL_PRECISION"


def matmul_precision(precision: str) -> AbstractContextManager[object]:
    """A context in which float32 products have this precision, unless the code sets another.

    It holds for the calling thread. The precision is an argument of the compiled programs, not of
    the process: nothing remains changed after the context.

    Args:
      precision: one of `MATMUL_PRECISIONS`.

    Raises:
      InputError: the environment asks for another precision.
    """
    given = os.environ.get(_VARIABLE)
    if given is not None and given != precision:
        raise InputError(
            f"{_VARIABLE} = {given!r} in the environment and MATMUL_PRECISION = {precision!r}",
            "one precision, that of the recipe",
            f"unset {_VARIABLE}; the precision is set by --gin.MATMUL_PRECISION",
        )
    return jax.default_matmul_precision(precision)
