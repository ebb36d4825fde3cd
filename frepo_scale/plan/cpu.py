"""This machine's CPU as a device to plan for: its rates are measured, in some seconds.

Convolutions on CPUs reach very different rates forward and backward, so each phase that a net
dominates is measured with the net of the recipe on a few images, and the regression with matrices
of a moderate size.
"""

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
from frepo_scale.distill.features import features_of
from frepo_scale.distill.flops import forward_flops
from frepo_scale.distill.outer import optimiser
from frepo_scale.distill.pool import Member, Minibatch, fresh_member, online_step
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.plan.chips import Chip
from frepo_scale.plan.hardware import Hardware

_IMAGES = 128  # of a measured pass over a net
_SIDE = 768  # of a measured matrix
_ROUNDS = 3  # the best one counts: other programs only make it slower
_BYTES = 2**26


def this_cpu() -> Hardware:
    """The CPU with the rates of its matrix products and of its memory."""
    rates = {name: _product_rate(dtype) for name, dtype in _DTYPES.items()}
    rates |= {"high": rates["default"], "highest": rates["default"]}
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    chip = Chip("cpu", "this CPU", "cpu", rates, memory, _bandwidth(), 1e9, 1e9, 1)
    return Hardware("cpu", chip, (1, 1))


_DTYPES = {"bfloat16": jnp.float32, "default": jnp.float32, "float64": jnp.float64}


def measured_rates(problem: Problem, image_shape: tuple[int, ...]) -> dict[str, float]:
    """Operations per second by the name of a phase, bytes per second for the optimiser.

    Args:
      problem: the recipe's, on any mesh.
      image_shape: (H, W, C).
    """
    flops = forward_flops(problem, image_shape)
    config, module = problem.config, problem.module
    shape = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    member = fresh_member(module, problem.pool, jax.random.key(0), shape, 0)
    count = max(1, min(_IMAGES, config.chunk, problem.size))
    images = jax.random.normal(jax.random.key(1), (count, *image_shape))
    labels = jnp.zeros((count, problem.size // config.ipc))
    function = partial(features_of, dtype=config.feature_dtype)

    def forward(images: jax.Array, member: Member) -> jax.Array:
        return function(module, member, images)

    def backward(images: jax.Array, member: Member) -> jax.Array:
        return jax.grad(lambda x: jnp.sum(jnp.square(forward(x, member))))(images)

    def online(images: jax.Array, labels: jax.Array, member: Member) -> Any:
        batch = Minibatch(images, labels, jnp.ones(count, bool), count)
        return online_step(module, problem.pool, member, batch)

    spec = jax.sharding.PartitionSpec()
    spread = jax.shard_map(
        online, mesh=single_device_mesh(), in_specs=spec, out_specs=spec, check_vma=False
    )
    with matmul_precision(config.matmul_precision):
        once = _seconds(jax.jit(forward), images, member)
        # The backward pass computes the activations again: the recomputation and itself.
        both = _seconds(jax.jit(backward), images, member)
        trained = _seconds(jax.jit(spread), images, labels, member)
    rate = count * flops / once
    return {
        "target features": rate,
        "synthetic forward": rate,
        "recomputation": 2 * count * flops / both,
        "synthetic backward": 2 * count * flops / both,
        "online step": 3 * count * flops / trained,
        "factorisation and solves": _factorisation_rate(),
        "optimiser": _optimiser_rate(problem, image_shape),
    }


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
