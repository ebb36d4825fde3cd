"""Part 2, right: single layers and the gradient through a net, against float64 on the CPU."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from frepo_scale.data.augment import AugmentConfig, augment
from frepo_scale.data.net_inputs import replicated, to_net_inputs
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.models.norm import BatchNorm
from frepo_scale.parallel.mesh import single_device_mesh
from gpu_parts.compare import error, row, wide
from gpu_parts.step_case import Shape, meta_gradient

STEP = Shape("gradient", 16, 3, 10, 4, True, width=32, batch=64)
# Label, dtype of the features, precision of products, bound.
PRECISIONS = (
    # At a ridge of 1e-6 the gradient of the largest pixel loses four digits and more in float32.
    ("full float32 products", "float32", "highest", 3e-2),
    ("default products", "float32", None, None),
    ("bfloat16 features", "bfloat16", None, None),
)
SMOKE_STEP = Shape("gradient", 8, 2, 5, 2, True, width=4, batch=16)


def batch_norm(smoke: bool) -> dict[str, Any]:
    """Training mode: normalised values, and the running variance of late, sparse channels."""
    shape = (16, 4, 4, 8) if smoke else (1000, 16, 16, 128)
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, rng.lognormal(-3.0, 2.0, shape[-1]), shape).astype(np.float32)
    module = BatchNorm()
    variables = jax.tree.map(np.asarray, module.init(jax.random.key(0), x[:1], True))

    def apply(variables: Any, x: jax.Array) -> Any:
        y, updated = module.apply(variables, x, True, mutable=["batch_stats"])
        return y, updated["batch_stats"]["var"]

    ours, truth = jax.jit(apply)(variables, x), wide(apply, variables, x)
    return {
        # A mean of 3 beside a deviation of 1e-3 leaves float32 about three digits of the value.
        "values": row(ours[0], truth[0], 1e-2),
        "running variance": row(ours[1], truth[1], 1e-4),
    }


def whitening(smoke: bool) -> dict[str, Any]:
    """uint8 pixels to whitened net inputs, against NumPy in float64."""
    side, images = (4, 100) if smoke else (24, 4096)
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(images, side, side, 3)).cumsum(axis=1).cumsum(axis=2)
    pixels = np.clip(128 + 20 * smooth / np.sqrt(side), 0, 255).astype(np.uint8)
    fitted = fit_preprocessing(pixels, whiten=True)
    ours = jax.jit(to_net_inputs)(replicated(fitted, single_device_mesh()), pixels)
    assert fitted.whitening is not None
    flat = (pixels / 255.0 - fitted.channel_mean) / fitted.channel_std
    flat = flat.reshape(images, -1) - fitted.whitening.mean
    truth = (flat @ fitted.whitening.matrix.astype(np.float64)).reshape(pixels.shape)
    return {"net inputs": row(ours, truth, 1e-4)}


def augmentation(smoke: bool) -> dict[str, Any]:
    """Every operation, drawn by enough keys; a hole's edge may round to the next pixel."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16 if smoke else 256, 32, 32, 3)).astype(np.float32)
    config = AugmentConfig(flip=True)

    def augmented(key: jax.Array, x: jax.Array) -> jax.Array:
        return augment(jax.random.wrap_key_data(key), x, config)

    largest, share, compiled = 0.0, 0.0, jax.jit(augmented)
    for number in range(2 if smoke else 24):
        key = np.asarray(jax.random.key_data(jax.random.key(number)))
        ours, truth = np.asarray(compiled(key, images)), wide(augmented, key, images)
        different = np.abs(ours - truth) > 1e-3 * np.abs(truth).max()
        largest, share = max(largest, error(ours, truth)), max(share, different.mean())
    return {
        "largest difference": {"error": largest},
        "share of pixels off by 1e-3": {"error": float(share), "bound": 1e-3, "ok": share <= 1e-3},
    }


def gradient(smoke: bool) -> dict[str, Any]:
    """Loss and image gradient of a fresh ConvNet's regression, in each precision of the net."""
    shape = SMOKE_STEP if smoke else STEP
    device = jax.devices()[0]
    truth = meta_gradient(shape, "float32", jax.devices("cpu")[0], wide=True)
    found: dict[str, Any] = {}
    for label, dtype, precision, bound in PRECISIONS[:1] if smoke else PRECISIONS:
        chosen = jax.default_matmul_precision(precision) if precision else contextlib.nullcontext()
        with chosen:
            ours = meta_gradient(shape, dtype, device, wide=False)
        cosine = np.vdot(ours["images"], truth["images"]) / (
            np.linalg.norm(ours["images"]) * np.linalg.norm(truth["images"])
        )
        found[f"loss, {label}"] = row(ours["loss"], truth["loss"], bound)
        found[f"image gradient, {label}"] = row(ours["images"], truth["images"], bound) | {
            "cosine": float(cosine)
        }
    return found


LAYERS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "BatchNorm": batch_norm,
    "whitening": whitening,
    "gradient": gradient,
    "augmentation": augmentation,
}
