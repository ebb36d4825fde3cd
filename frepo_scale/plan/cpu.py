"""This machine's CPU as a device to plan for: its rates are measured, in some seconds.

Convolutions on CPUs reach very different rates forward and backward, and on few images, whose
activations stay in a cache, so each phase that a net dominates is measured with the net of the
recipe and as many images as a step has, at least up to a limit of time. The regression is measured
with matrices of a moderate size.
"""

import math
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.features import even_chunk, features_of
from frepo_scale.distill.flops import forward_flops, gradient_rows
from frepo_scale.distill.outer import optimiser
from frepo_scale.distill.pool import Member, Minibatch, fresh_member, online_step
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.plan.chips import Chip
from frepo_scale.plan.hardware import Hardware

_IMAGES = 128  # of a measured pass over a net, if the step has as many
_OPERATIONS = 2e10  # of a measured pass with more images
_SIDE = 768  # of a measured matrix
_ROUNDS = 3  # the best one counts: other programs only make it slower
_BYTES = 2**23  # larger arrays are new pages in each call, which takes longer than writing


def this_cpu() -> Hardware:
    """The CPU with the rates of its matrix products and of its memory."""
    rates = {name: _product_rate(dtype) for name, dtype in _DTYPES.items()}
    rates |= {"high": rates["default"], "highest": rates["default"]}
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    chip = Chip("cpu", "this CPU", "cpu", rates, memory, _bandwidth(), 1e9, 1e9, 1)
    return Hardware("cpu", chip, (1, 1))


_DTYPES = {"bfloat16": jnp.float32, "default": jnp.float32, "float64": jnp.float64}


def measured_rates(problem: Problem, image_shape: tuple[int, ...]) -> dict[str, float]:
    """Operations per second by the name of a phase, bytes per second for the optimiser; infinite
    for a recomputation that does not take place.

    Args:
      problem: the recipe's, on any mesh.
      image_shape: (H, W, C).
    """
    flops = forward_flops(problem, image_shape)
    config, module = problem.config, problem.module
    shape = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    member = fresh_member(module, problem.pool, jax.random.key(0), shape, 0)
    rows = problem.size * (2 if config.flip else 1)
    # Of a single chunk XLA keeps the activations of the forward pass, see `features.map_chunks`.
    kept = gradient_rows(problem) == rows <= config.chunk
    targets = _count(even_chunk(problem.batch, config.chunk), flops)
    chunk = _count(even_chunk(rows, config.chunk), 2 * flops)
    minibatch = _count(min(problem.size, problem.pool.batch), 3 * flops)
    labels = jnp.zeros((minibatch, problem.size // config.ipc))
    function = partial(features_of, dtype=config.feature_dtype)

    def images(count: int) -> jax.Array:
        return jax.random.normal(jax.random.key(1), (count, *image_shape))

    def forward(images: jax.Array, member: Member) -> jax.Array:
        return function(module, member, images)

    def backward(images: jax.Array, member: Member) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.square(forward(x, member))))(images)

    def online(images: jax.Array, labels: jax.Array, member: Member) -> Any:
        batch = Minibatch(images, labels, jnp.ones(minibatch, bool), minibatch)
        return online_step(module, problem.pool, member, batch)

    spec = jax.sharding.PartitionSpec()
    spread = jax.shard_map(
        online, mesh=single_device_mesh(), in_specs=spec, out_specs=spec, check_vma=False
    )
    with matmul_precision(config.matmul_precision):
        real = targets * flops / _seconds(jax.jit(forward), images(targets), member)
        once = _seconds(jax.jit(forward), images(chunk), member)
        # The gradient has a forward pass in it.
        both = _seconds(jax.jit(backward), images(chunk), member)
        trained = _seconds(jax.jit(spread), images(minibatch), labels, member)
    return {
        "target features": real,
        "synthetic forward": chunk * flops / once,
        "recomputation": math.inf if kept else chunk * flops / once,
        # Not less than half a forward pass, whatever other programs did to the measurements.
        "synthetic backward": chunk * flops / max(both - once, once / 2),
        "online step": 3 * minibatch * flops / trained,
        "implicit gradient": 3 * minibatch * flops / trained,  # passes forward and back, too
        "factorisation and solves": _factorisation_rate(),
        "optimiser": _optimiser_rate(problem, image_shape),
    }


def _count(images: int, operations: float) -> int:
    """Images of a measured pass: those of a step, or fewer where they take too long.

    Args:
      images: of the step.
      operations: of the pass for one image.
    """
    return min(images, max(_IMAGES, int(_OPERATIONS / operations)))


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - began)
    return min(times)


def _product_rate(dtype: Any) -> float:
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (_SIDE, _SIDE), dtype)
        return 2 * _SIDE**3 / _seconds(jax.jit(jnp.matmul), x, x)


def _bandwidth() -> float:
    x = jnp.zeros(_BYTES // 4, jnp.float32)
    return 2 * _BYTES / _seconds(jax.jit(lambda x: x + 1), x)


def _factorisation_rate() -> float:
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(_SIDE, _SIDE))
        matrix = jnp.asarray(x @ x.T + _SIDE * np.eye(_SIDE))
        columns = 16

        def solve(matrix: jax.Array) -> jax.Array:
            factor = jsl.cho_factor(matrix, lower=True)[0]
            return jsl.cho_solve((factor, True), matrix[:, :columns])

        operations = _SIDE**3 / 3 + 2 * _SIDE**2 * columns
        return operations / _seconds(jax.jit(solve), matrix)


def _optimiser_rate(problem: Problem, image_shape: tuple[int, ...]) -> float:
    images = jnp.ones((_IMAGES, *image_shape))
    start = DistilledSet(images, jnp.ones((_IMAGES, 10)))
    update = optimiser(problem.config, problem.outer)
    seconds = _seconds(jax.jit(update.update), start, update.init(start), start)
    return 28 * (images.size + _IMAGES * 10) / seconds
