"""Compiles the outer step from shapes alone, for the devices of any mesh."""

from typing import NamedTuple

import jax
import numpy as np

from frepo_scale.core.errors import RunError
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.state import padded_size, state_shapes
from frepo_scale.distill.step import OuterStep, make_outer_step


class Cost(NamedTuple):
    """What the compiler says of one device's share of an outer step.

    Attributes:
      arguments: bytes of state and batch, which are there all the time.
      temporary: bytes it needs beside them at the most, code included.
      operations: floating-point operations; loops are counted once, so a lower bound.
    """

    arguments: int
    temporary: int
    operations: float


def compile_outer_step(
    parts: OuterStep, image_shape: tuple[int, ...], num_classes: int
) -> jax.stages.Compiled:
    """The compiled step; nothing is computed and no data are needed.

    Args:
      parts: what the step is made of; its mesh may be of devices that are not here.
      image_shape: (H, W, C).
      num_classes: K.

    Raises:
      InputError: the sizes do not divide over the mesh.
    """
    size = padded_size(parts.size, parts.mesh)
    distilled = DistilledSet(
        *(jax.ShapeDtypeStruct((size, *rest), np.float32) for rest in (image_shape, (num_classes,)))
    )
    state = state_shapes(parts.module, parts.config, parts.pool, distilled)
    rows = parts.pool.members * parts.batch
    batch = Batch(
        jax.ShapeDtypeStruct((rows, *image_shape), np.float32),
        jax.ShapeDtypeStruct((rows,), np.int32),
    )
    step: jax.stages.Wrapped = make_outer_step(parts, state)  # type: ignore[assignment]
    return step.lower(state, batch).compile()


def cost_of(compiled: jax.stages.Compiled) -> Cost:
    """Memory and operations of a compiled step, per device.

    Raises:
      RunError: the compiler does not say.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        raise RunError("the compiler of this platform does not say what memory a step needs")
    analysis = compiled.cost_analysis() or {}
    return Cost(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        float(analysis.get("flops", float("nan"))),
    )
