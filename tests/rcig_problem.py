"""The problem of `distill/test_rcig.py`, for its process and the program that it starts."""

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.outer import OuterConfig
from frepo_scale.distill.pool import PoolConfig, initial_pool
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

CLASSES, SIZE, BATCH, SIDE, RIDGE, SHARPNESS = 3, 6, 8, 8, 5e-4, 0.3
MODULE = ConvNet(num_classes=CLASSES, width=2, depth=2, norm="none")


def problem(flip=False, form="auto", loss="mse", chunk=1024, mesh=None):
    return Problem(
        MODULE,
        DistillConfig(ipc=2, steps=10, flip=flip, seed=1, chunk=chunk),
        PoolConfig(size=1),
        RidgeConfig(RIDGE, form, scale="absolute"),
        mesh or single_device_mesh(),
        SIZE,
        BATCH,
        OuterConfig(loss=loss, margin=0.0),
    )


def inputs(dtype):
    rng = np.random.default_rng(0)
    labels = np.eye(CLASSES)[np.arange(SIZE) % CLASSES] - 1 / CLASSES
    distilled = DistilledSet(
        jnp.asarray(rng.normal(size=(SIZE, SIDE, SIDE, 3)), dtype),
        jnp.asarray(labels + 0.05 * rng.normal(size=(SIZE, CLASSES)), dtype),
    )
    images = jnp.asarray(rng.normal(size=(BATCH, SIDE, SIDE, 3)), dtype)
    return distilled, Batch(images, jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32))


def pool_of(given, dtype):
    image = jax.ShapeDtypeStruct((SIDE, SIDE, 3), dtype)
    return initial_pool(given.module, given.pool, 1, image)
