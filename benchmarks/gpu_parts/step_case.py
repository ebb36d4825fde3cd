"""The outer step at a given shape, whole and phase by phase.

Everything that the check uses of `frepo_scale.distill`, `regression`, `models`, `parallel` and
`plan` is named in this module and in `gpu_parts.several_steps`, so that a change of theirs needs a
change there only.

Legend: N synthetic images, B target batch, R rows of the regression (N, or 2N with flip), d
features, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from frepo_scale.core.types import Batch, DistilledSet, centred_onehot
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.features import chunked_features, chunked_image_gradient
from frepo_scale.distill.flops import outer_step_flops
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.outer import optimiser
from frepo_scale.distill.pool import Member, PoolConfig, adam, take_member
from frepo_scale.distill.state import initial_train_state
from frepo_scale.distill.step import make_meta_gradient, make_pool_update
from frepo_scale.models.convnet import ConvNet
from frepo_scale.models.registry import feature_dim
from frepo_scale.parallel.mesh import (
    DATA,
    POOL,
    MeshConfig,
    build_mesh,
    over,
    platform_of,
    single_device_mesh,
)
from frepo_scale.plan.compile import Cost, compile_outer_step, cost_of
from frepo_scale.regression.ridge import RidgeConfig, ridge_weights

DTYPES = ("float32", "bfloat16")  # of the networks; "float32" is TF32 on recent NVIDIA cards
PHASES = (
    "target features",
    "synthetic forward",
    "synthetic backward",
    "regression",
    "optimiser",
    "online step",
)
SAME_IN_EVERY_DTYPE = ("regression", "optimiser")


@dataclass(frozen=True)
class Shape:
    """One shape of the outer step."""

    name: str
    side: int
    depth: int
    classes: int
    ipc: int
    flip: bool
    ridge: float = 1e-6
    channels: int = 3
    width: int = 128
    batch: int = 1024

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return (self.side, self.side, self.channels)

    @property
    def size(self) -> int:
        """N."""
        return self.classes * self.ipc

    @property
    def rows(self) -> int:
        """R."""
        return 2 * self.size if self.flip else self.size

    @property
    def online(self) -> int:
        """Images of an online step."""
        return min(self.size, PoolConfig().batch)


SHAPES = (
    Shape("CIFAR-10 IPC 10", 32, 3, 10, 10, True),
    Shape("ImageNet 64 px IPC 2", 64, 4, 1000, 2, False),
    Shape("CIFAR-100 IPC 50", 32, 3, 100, 50, False),
    Shape("ImageNet 64 px IPC 10", 64, 4, 1000, 10, False, ridge=1e-1),
)
SMOKE_SHAPES = (Shape("smoke", 8, 2, 5, 2, True, width=4, batch=16),)


class Phase(NamedTuple):
    """A part of the outer step that can be compiled and timed alone.

    Attributes:
      function: jitted.
      arguments: arrays on the device.
      carries: how many leading arguments are donated, and replaced by the leading results.
    """

    function: Any
    arguments: tuple[Any, ...]
    carries: int


def problem_of(shape: Shape, dtype: str = "float32", device: jax.Device | None = None) -> Problem:
    """The problem of FRePo: the paper's settings at this shape, on the first device or one."""
    return Problem(
        ConvNet(num_classes=shape.classes, width=shape.width, depth=shape.depth),
        DistillConfig(ipc=shape.ipc, flip=shape.flip, feature_dtype=dtype),
        PoolConfig(dtype=dtype),
        RidgeConfig(shape.ridge),
        single_device_mesh() if device is None else build_mesh(MeshConfig(), [device]),
        shape.size,
        shape.batch,
    )


def compiled_step(
    shape: Shape, dtype: str, device: jax.Device | None = None
) -> jax.stages.Compiled:
    """The whole step, compiled from shapes alone, also for a device that is not here."""
    return compile_outer_step(FRePo(problem_of(shape, dtype, device)), shape.image, shape.classes)


def memory_of(compiled: jax.stages.Compiled) -> Cost:
    """Bytes of arguments, and of temporaries with the program's code."""
    return cost_of(compiled)


def step_flops(shape: Shape) -> float:
    """Operations of one step, counted from the shapes (`frepo_scale.distill.flops`)."""
    return outer_step_flops(problem_of(shape), shape.image, shape.classes)


def dim(shape: Shape) -> int:
    """d."""
    return feature_dim(problem_of(shape).module, shape.image)


def state_and_batch(shape: Shape) -> tuple[Any, Batch]:
    """A state before step 0 and a target batch of random pixels, on the device."""
    problem = problem_of(shape)
    rng = np.random.default_rng(0)
    start = DistilledSet(
        rng.normal(size=(shape.size, *shape.image)).astype(np.float32),
        np.repeat(np.eye(shape.classes, dtype=np.float32), shape.ipc, axis=0) - 1 / shape.classes,
    )
    state = initial_train_state(FRePo(problem), start)
    images = rng.normal(size=(shape.batch, *shape.image)).astype(np.float32)
    labels = rng.integers(0, shape.classes, shape.batch).astype(np.int32)
    return state, jax.device_put(Batch(images, labels), over(problem.mesh, (POOL, DATA)))


def repeated(compiled: Any, state: Any, batch: Batch) -> Callable[[], Any]:
    """A function that does one more step each time it is called; the state is donated to it."""

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics["loss"]

    return call


def phases(shape: Shape, dtype: str, state: Any, batch: Batch) -> dict[str, Phase]:
    """The phases of the step at a state, by the names in `PHASES`.

    Donated arguments are copies, so the state stays usable.
    """
    problem = problem_of(shape, dtype)
    module, config, platform = problem.module, problem.config, platform_of(problem.mesh)
    inner = state.algorithm
    member = take_member(inner.pool, jnp.int32(0))
    distilled = inner.distilled
    seen, labels = distilled.images, distilled.labels
    if shape.flip:
        seen = jnp.concatenate([seen, seen[:, :, ::-1]])
        labels = jnp.concatenate([labels, labels])
    keys = jax.random.split(jax.random.key(0))
    f_rd, cotangent = (jax.random.normal(key, (shape.rows, dim(shape))) for key in keys)
    f_bd = jax.random.normal(keys[0], (shape.batch, dim(shape)))
    targets = centred_onehot(batch.labels, shape.classes, jnp.float32)
    gradient = DistilledSet(*(1e-3 * jax.random.normal(keys[1], x.shape) for x in distilled))

    def features(images: jax.Array, member: Any) -> jax.Array:
        return chunked_features(module, member, images, config, platform)

    def backward(images: jax.Array, cotangent: jax.Array, member: Any) -> jax.Array:
        return chunked_image_gradient(module, member, images, cotangent, config, platform)

    def optimise(distilled: DistilledSet, moments: Any, grads: DistilledSet) -> Any:
        updates, moments = optimiser(config, problem.outer).update(grads, moments, distilled)
        return optax.apply_updates(distilled, updates), moments

    def online(pool: Any, step: jax.Array, distilled: DistilledSet) -> Any:
        return make_pool_update(problem)(step, distilled, pool)

    regression = partial(_regression, shape, problem.ridge.resolved(problem.mesh.devices.flat[0]))
    copies = jax.tree.map(jnp.copy, (distilled, inner.optimiser, inner.pool))
    return {
        "target features": Phase(jax.jit(features), (batch.images, member), 0),
        "synthetic forward": Phase(jax.jit(features), (seen, member), 0),
        "synthetic backward": Phase(jax.jit(backward), (seen, cotangent, member), 0),
        "regression": Phase(jax.jit(regression), (f_bd, f_rd, labels, targets), 0),
        "optimiser": Phase(jax.jit(optimise, donate_argnums=(0, 1)), (*copies[:2], gradient), 2),
        "online step": Phase(
            jax.jit(online, donate_argnums=0), (copies[2], jnp.int32(0), distilled), 1
        ),
    }


def _regression(
    shape: Shape,
    ridge: RidgeConfig,
    f_bd: jax.Array,
    f_rd: jax.Array,
    y_rK: jax.Array,
    y_bK: jax.Array,
) -> Any:
    """Solve, prediction, and the gradient back to features and labels, as in the outer step."""

    def weights(f_rd: jax.Array, y_rK: jax.Array) -> jax.Array:
        return ridge_weights(f_rd, y_rK, shape.rows, ridge)[0]

    w_dK, pull_back = jax.vjp(weights, f_rd, y_rK)
    with jax.default_matmul_precision("highest"):
        dw_dK = f_bd.T @ (f_bd @ w_dK - y_bK) / shape.batch
    return pull_back(dw_dK)


def repeated_phase(phase: Phase, compiled: Any) -> Callable[[], Any]:
    """A function that runs a compiled phase again each time it is called."""
    held = list(phase.arguments)

    def call() -> Any:
        out = compiled(*held)
        for number in range(phase.carries):
            held[number] = out[number]
        return out

    return call


def regression_value(
    f_rd: jax.Array, y_rK: jax.Array, f_bd: jax.Array, y_bK: jax.Array, ridge: float, precision: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Prediction (B, K) and the gradients of `½ mean ‖prediction - y‖²` to features and labels."""
    config = RidgeConfig(ridge, "auto", precision)

    def weights(f_rd: jax.Array, y_rK: jax.Array) -> jax.Array:
        return ridge_weights(f_rd, y_rK, len(f_rd), config)[0]

    w_dK, pull_back = jax.vjp(weights, f_rd, y_rK)
    with jax.default_matmul_precision("highest"):
        prediction = f_bd @ w_dK
        dw_dK = f_bd.T @ (prediction - y_bK) / len(f_bd)
    return prediction, *pull_back(dw_dK)


def meta_gradient(shape: Shape, dtype: str, device: jax.Device, wide: bool) -> dict[str, Any]:
    """Loss and gradient of one fresh member's regression, on a device.

    Args:
      shape: of the step; its net and images are the same on every device.
      dtype: of the networks.
      device: where it is computed.
      wide: with parameters, images and labels in float64.
    """
    rng = np.random.default_rng(1)
    kind = np.float64 if wide else np.float32
    images = rng.normal(size=(shape.size, *shape.image)).astype(np.float32)
    labels = np.repeat(np.eye(shape.classes), shape.ipc, axis=0) - 1 / shape.classes
    targets = rng.normal(size=(1, shape.batch, *shape.image)).astype(np.float32)
    classes = rng.integers(0, shape.classes, (1, shape.batch)).astype(np.int32)
    with jax.enable_x64(wide), jax.default_device(device):
        problem = problem_of(shape, dtype, device)._replace(pool=PoolConfig(size=1))
        pool = jax.tree.map(
            lambda x: jnp.asarray(x, kind if np.issubdtype(x.dtype, np.floating) else x.dtype),
            _fresh_pool(shape),
        )
        start = DistilledSet(jnp.asarray(images, kind), jnp.asarray(labels, kind))
        batch = Batch(jnp.asarray(targets, kind), jnp.asarray(classes))
        grads, _, metrics = jax.jit(make_meta_gradient(problem))(
            jnp.int32(0), start, None, pool, batch
        )
        return {
            "loss": np.asarray(metrics["loss"], np.float64),
            "images": np.asarray(grads.images, np.float64),
            "labels": np.asarray(grads.labels, np.float64),
        }


def _fresh_pool(shape: Shape) -> Any:
    """A pool of one fresh member, made on the CPU: the same numbers for every accelerator."""
    with jax.enable_x64(False), jax.default_device(jax.devices("cpu")[0]):
        problem = problem_of(shape)
        variables: Any = problem.module.init(jax.random.key(3), jnp.zeros((1, *shape.image)))
        one = Member(
            variables["params"],
            variables.get("batch_stats", {}),
            adam(problem.pool).init(variables["params"]),
            jnp.int32(0),
        )
        return jax.tree.map(lambda x: np.asarray(x)[None], one)
