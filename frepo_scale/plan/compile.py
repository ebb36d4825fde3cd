"""Compiles the outer step from shapes alone, for the devices of any mesh."""

from typing import NamedTuple

import jax
import numpy as np

from frepo_scale.core.errors import RunError
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.state import make_train_step, train_state_shapes


class Cost(NamedTuple):
    """Memory and operations of one device for an outer step, as the compiler reports them.

    Attributes:
      arguments: bytes of state and batch, which are always in memory.
      temporary: largest number of further bytes.
      operations: floating-point operations; loops are counted once, so a lower bound.
      code: bytes of the program.
    """

    arguments: int
    temporary: int
    operations: float
    code: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.arguments + self.temporary + self.code


def lower_outer_step(
    algorithm: Algorithm, image_shape: tuple[int, ...], num_classes: int
) -> jax.stages.Lowered:
    """The step for the compiler; nothing is computed and no data are needed.

    Args:
      algorithm: the algorithm; its mesh may be of devices that are not on this machine.
      image_shape: (H, W, C).
      num_classes: K.
    """
    start = DistilledSet(
        jax.ShapeDtypeStruct((algorithm.rows, *image_shape), np.float32),
        jax.ShapeDtypeStruct((algorithm.rows, num_classes), np.float32),
    )
    state = train_state_shapes(algorithm, start)
    batch = Batch(
        jax.ShapeDtypeStruct((algorithm.batch_size, *image_shape), np.float32),
        jax.ShapeDtypeStruct((algorithm.batch_size,), np.int32),
    )
    step: jax.stages.Wrapped = make_train_step(algorithm, state)  # type: ignore[assignment]
    # Without weak types, which a restored state has not: `train.ahead` compares the texts.
    strong = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batch))
    return step.lower(*strong)


def compile_outer_step(
    algorithm: Algorithm, image_shape: tuple[int, ...], num_classes: int
) -> jax.stages.Compiled:
    """The compiled step. Arguments as those of `lower_outer_step`."""
    return lower_outer_step(algorithm, image_shape, num_classes).compile()


def cost_of(compiled: jax.stages.Compiled) -> Cost:
    """Memory and operations of a compiled step, per device.

    Raises:
      RunError: the compiler does not report memory.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        raise RunError("the compiler of this platform does not report the memory of a step")
    analysis = compiled.cost_analysis() or {}
    return Cost(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        float(analysis.get("flops", float("nan"))),
        memory.generated_code_size_in_bytes,
    )
