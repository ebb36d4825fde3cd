"""Several outer steps in one call, as runs do them whose images are on the device."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.feed import Held, batch_of
from frepo_scale.data.net_inputs import Constants
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.state import make_train_steps, train_state_shapes
from gpu_parts.step_case import Shape, problem_of

_IMAGES = 10_000  # of the set that batches are gathered from


def compiled_steps(shape: Shape, dtype: str, most: int) -> jax.stages.Compiled:
    """`most` steps in one call on an uploaded uint8 set, as with STEPS_PER_CALL; from shapes."""
    algorithm = FRePo(problem_of(shape, dtype))
    start = DistilledSet(
        jax.ShapeDtypeStruct((shape.size, *shape.image), np.float32),
        jax.ShapeDtypeStruct((shape.size, shape.classes), np.float32),
    )
    state = train_state_shapes(algorithm, start)
    held, rows, count = jax.eval_shape(lambda: _set_and_rows(shape, most))
    steps: Any = make_train_steps(algorithm, state, partial(batch_of, algorithm.problem.mesh))
    compiled: jax.stages.Compiled = steps.lower(state, held, rows, count).compile()
    return compiled


def repeated_steps(compiled: Any, shape: Shape, state: Any, most: int) -> Callable[[], Any]:
    """A function that does `most` more steps each time it is called; the state is donated to it."""
    given = jax.jit(_set_and_rows, static_argnums=(0, 1))(shape, most)

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, *given)
        return metrics["loss"]

    return call


def _set_and_rows(shape: Shape, most: int) -> tuple[Held, jax.Array, jax.Array]:
    """A whitened set of random pixels, the rows of `most` batches, and `most`."""
    size = math.prod(shape.image)
    key = jax.random.key(0)
    pixels = Batch(
        jax.random.randint(key, (_IMAGES, *shape.image), 0, 256, jnp.uint8),
        jax.random.randint(key, (_IMAGES,), 0, shape.classes),
    )
    one = jnp.ones(shape.channels)
    constants = Constants(one / 2, one / 4, jnp.zeros(size), jnp.eye(size))
    rows = jax.random.randint(key, (most, shape.batch), 0, _IMAGES)
    return Held(pixels, constants), rows, jnp.int32(most)
