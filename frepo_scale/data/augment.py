"""The augmentation of a batch of net inputs: one random operation per batch.

It is that of the evaluation nets' batches, and with `OUTER_AUGMENT` that of the outer step.

Source: docs/algorithm.md section 5; Zhou et al. 2022 ("Dataset Distillation using Neural Feature
Regression"). The operation is drawn once per batch, its strength once per image:

  flip       left-right mirror with probability 1/2 (not for digits and clothes)
  colour     brightness, contrast, saturation
  crop       zoom in or out at a random position
  rotate     about the centre
  translate  along both axes
  cutout     a square hole filled with 0, the mean of normalised images

Crop, rotate and translate share one bilinear sampler that replicates the edges: gathers and
elementwise arithmetic only, because a matrix product of coordinates would be rounded to bfloat16
on a TPU. Random numbers are float32 for images of every dtype, so that float64 images get the same
strengths as float32 ones. Arithmetic is in float32 or wider.

Legend: B images of the batch, H W height and width in pixels, C channels; a trailing 2 is (y, x).

Example:
  config = AugmentConfig(flip=True)
  step = jax.jit(lambda key, images: augment(key, images, config))
  images = step(key_for(seed, Purpose.EVALUATION_AUGMENT, net, step_number), images)
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from frepo_scale.core.checks import check_bool, check_float
from frepo_scale.core.types import Array

Operation = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class AugmentConfig:
    """The operations and their strengths (docs/algorithm.md section 5; Zhou et al. 2022).

    Recipes set `flip` only. The strengths are fields because each export records them.

    Attributes:
      flip: whether mirroring is one of the operations; False for digits and clothes.
      brightness: largest value added or subtracted, in whitened units.
      contrast: the contrast factor is log-uniform in exp(-contrast)..exp(contrast).
      saturation: the same for the saturation factor.
      crop_scale: the zoom is log-uniform in 1/crop_scale..crop_scale; 1 disables it.
      rotate_degrees: largest angle, either way.
      translate: largest shift along an axis, as a fraction of the side.
      cutout: largest side of the hole, as a fraction of the shorter side.
    """

    flip: bool
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    crop_scale: float = 1.25
    rotate_degrees: float = 15.0
    translate: float = 0.125
    cutout: float = 0.25

    def __post_init__(self) -> None:
        """Raises InputError for a value of the wrong type or out of range."""
        check_bool("AugmentConfig.flip", self.flip)
        for name in ("brightness", "contrast", "saturation"):
            check_float(f"AugmentConfig.{name}", getattr(self, name), 0)
        check_float("AugmentConfig.crop_scale", self.crop_scale, 1)
        check_float("AugmentConfig.rotate_degrees", self.rotate_degrees, 0, 180)
        check_float("AugmentConfig.translate", self.translate, 0, 1)
        check_float("AugmentConfig.cutout", self.cutout, 0, 1)


NO_AUGMENTATION = AugmentConfig(
    flip=False,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    crop_scale=1.0,
    rotate_degrees=0.0,
    translate=0.0,
    cutout=0.0,
)


def augment(key: jax.Array, images: Array, config: AugmentConfig) -> jax.Array:
    """Applies one operation, drawn uniformly, to a batch (docs/algorithm.md section 5).

    Under `jit` only the operation drawn is executed; `vmap` over keys would execute all of them.

    Args:
      key: one PRNG key; the same key gives the same result.
      images: (B, H, W, C), any float dtype.
      config: the operations and their strengths; static.

    Returns:
      (B, H, W, C) images of the dtype of `images`.
    """
    x_BHWC = jnp.asarray(images)
    if x_BHWC.ndim != 4 or not jnp.issubdtype(x_BHWC.dtype, jnp.floating):
        raise TypeError(f"images are {x_BHWC.dtype}{x_BHWC.shape}, expected float (B, H, W, C)")
    branches = _operations(config)
    operation_key, strength_key = jax.random.split(key)
    index = jax.random.randint(operation_key, (), 0, len(branches), jnp.int32)
    return jax.lax.switch(index, branches, strength_key, x_BHWC)


def augment_rows(
    key: jax.Array, images: jax.Array, rows: jax.Array, config: AugmentConfig
) -> jax.Array:
    """Like `augment`, with the strengths of an image given by key and row number alone.

    So the devices that hold the rows of a batch draw what one device would, and two batches with
    the same key get the same operation. Differentiable with respect to the images.

    Args:
      key: one PRNG key.
      images: (n, H, W, C), any float dtype.
      rows: (n,) int32, the number of each image.
      config: the operations and their strengths; static.

    Returns:
      (n, H, W, C) images of the dtype of `images`.
    """
    operation_key, strength_key = jax.random.split(key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(strength_key, rows)

    def by_row(operation: Operation) -> Callable[[jax.Array], jax.Array]:
        each = jax.vmap(lambda key, image: operation(key, image[None])[0])
        return lambda images: each(keys, images)

    branches = [by_row(operation) for operation in _operations(config)]
    index = jax.random.randint(operation_key, (), 0, len(branches), jnp.int32)
    return jnp.asarray(jax.lax.switch(index, branches, images))


@functools.cache  # new function objects would make each call outside of jit compile again
def _operations(config: AugmentConfig) -> tuple[Operation, ...]:
    operations: tuple[Operation, ...] = (
        lambda key, x: colour(key, x, config.brightness, config.contrast, config.saturation),
        lambda key, x: crop(key, x, config.crop_scale),
        lambda key, x: rotate(key, x, config.rotate_degrees),
        lambda key, x: translate(key, x, config.translate),
        lambda key, x: cutout(key, x, config.cutout),
    )
    return (flip, *operations) if config.flip else operations


# The operations with random strengths, drawn per image.


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each of the (B, H, W, C) images left to right with probability 1/2."""
    mirrored_B = _uniform(key, images.shape[:1]) < 0
    return jnp.where(mirrored_B[:, None, None, None], images[:, :, ::-1], images)


def colour(
    key: jax.Array, images: jax.Array, brightness: float, contrast: float, saturation: float
) -> jax.Array:
    """`adjust_colour` of (B, H, W, C) images by random amounts.

    Args:
      key: one PRNG key.
      images: (B, H, W, C), any float dtype.
      brightness: added: uniform in +-brightness.
      contrast: factor: log-uniform in exp(+-contrast).
      saturation: factor: log-uniform in exp(+-saturation).
    """
    u_3B = _uniform(key, (3, images.shape[0]))
    return adjust_colour(
        images, brightness * u_3B[0], jnp.exp(contrast * u_3B[1]), jnp.exp(saturation * u_3B[2])
    )


def crop(key: jax.Array, images: jax.Array, scale: float) -> jax.Array:
    """`zoom_by` a factor log-uniform in 1/scale..scale at a uniform position; (B, H, W, C)."""
    scale_key, position_key = jax.random.split(key)
    log_scale_B = jnp.log(scale) * _uniform(scale_key, images.shape[:1])
    position_B2 = jax.random.uniform(position_key, (images.shape[0], 2), jnp.float32)
    return zoom_by(images, jnp.exp(log_scale_B), position_B2)


def rotate(key: jax.Array, images: jax.Array, degrees: float) -> jax.Array:
    """`rotate_by` an angle uniform in +-degrees; (B, H, W, C)."""
    return rotate_by(images, degrees * _uniform(key, images.shape[:1]))


def translate(key: jax.Array, images: jax.Array, fraction: float) -> jax.Array:
    """`translate_by` up to `fraction` of each side, along each axis independently; (B, H, W, C)."""
    b, h, w, _ = images.shape
    side_2 = jnp.asarray([h, w], jnp.float32)
    return translate_by(images, fraction * side_2 * _uniform(key, (b, 2)))


def cutout(key: jax.Array, images: jax.Array, fraction: float) -> jax.Array:
    """`cut_hole` of a side uniform in 1..floor(fraction * min(H, W)), anywhere inside.

    Nothing is cut where that bound is below one pixel. (B, H, W, C).
    """
    b, h, w, _ = images.shape
    largest = int(fraction * min(h, w))
    if largest == 0:
        return images
    side_key, position_key = jax.random.split(key)
    side_B = jax.random.randint(side_key, (b,), 1, largest + 1, jnp.int32)
    room_B2 = jnp.asarray([h, w], jnp.int32) - side_B[:, None] + 1
    return cut_hole(images, side_B, jax.random.randint(position_key, (b, 2), 0, room_B2, jnp.int32))


# The operations with given strengths.


def adjust_colour(
    images: jax.Array, brightness: Array, contrast: Array, saturation: Array
) -> jax.Array:
    """Changes brightness, contrast and saturation; the three commute.

    Args:
      images: (B, H, W, C), any float dtype.
      brightness: (B,) added to every pixel and channel.
      contrast: (B,) factor of the distance to the mean of the image.
      saturation: (B,) factor of the distance to the channel mean of the pixel; it has no
        effect where C = 1.

    Returns:
      (B, H, W, C) images of the dtype of `images`.
    """
    x_BHWC = _at_least_float32(images)
    brightness, contrast, saturation = (
        jnp.asarray(a, x_BHWC.dtype)[:, None, None, None]
        for a in (brightness, contrast, saturation)
    )
    grey_BHW1 = x_BHWC.mean(axis=-1, keepdims=True)
    x_BHWC = grey_BHW1 + saturation * (x_BHWC - grey_BHW1)
    mean_B111 = x_BHWC.mean(axis=(1, 2, 3), keepdims=True)
    x_BHWC = mean_B111 + contrast * (x_BHWC - mean_B111) + brightness
    return x_BHWC.astype(images.dtype)


def zoom_by(images: jax.Array, scale: Array, position: Array) -> jax.Array:
    """Shows a window of `scale` times each side in the whole frame.

    Below 1 it zooms in and the window lies inside the image; above 1 it zooms out, the image lies
    inside the window and its edges are replicated around it.

    Args:
      images: (B, H, W, C), any float dtype.
      scale: (B,) side of the window, in sides of the image.
      position: (B, 2) in [0, 1]: 0 aligns the top (left) edges of window and image, 1 the bottom
        (right) ones.

    Returns:
      (B, H, W, C) images of the dtype of `images`.
    """
    scale_B1 = jnp.asarray(scale)[:, None]
    side_2 = jnp.asarray(images.shape[1:3], jnp.float32)
    shift_B2 = (1 - scale_B1) * side_2 * (jnp.asarray(position) - 0.5)
    return sample_affine(images, scale_B1[:, :, None] * jnp.eye(2, dtype=jnp.float32), shift_B2)


def rotate_by(images: jax.Array, degrees: Array) -> jax.Array:
    """Rotates (B, H, W, C) images anticlockwise about the centre by (B,) degrees, same dtype."""
    angle_B = jnp.deg2rad(jnp.asarray(degrees))
    cos_B, sin_B = jnp.cos(angle_B), jnp.sin(angle_B)
    rows = (jnp.stack([cos_B, sin_B], axis=-1), jnp.stack([-sin_B, cos_B], axis=-1))
    return sample_affine(images, jnp.stack(rows, axis=-2), jnp.zeros((1, 2), jnp.float32))


def translate_by(images: jax.Array, pixels: Array) -> jax.Array:
    """Moves (B, H, W, C) images by (B, 2) pixels, down and right where positive; same dtype."""
    return sample_affine(images, jnp.eye(2, dtype=jnp.float32)[None], -jnp.asarray(pixels))


def cut_hole(images: jax.Array, side: Array, top_left: Array) -> jax.Array:
    """Fills a square hole with 0.

    Args:
      images: (B, H, W, C), any float dtype.
      side: (B,) int, side of the hole in pixels; 0 cuts none.
      top_left: (B, 2) int, its first row and column.

    Returns:
      (B, H, W, C) images of the dtype of `images`.
    """
    side_B1, first_B2 = jnp.asarray(side)[:, None], jnp.asarray(top_left)

    def inside(axis: int) -> jax.Array:
        index = jnp.arange(images.shape[1 + axis])
        first_B1 = first_B2[:, axis, None]
        return (index >= first_B1) & (index < first_B1 + side_B1)

    hole_BHW = inside(0)[:, :, None] & inside(1)[:, None, :]
    return jnp.where(hole_BHW[..., None], jnp.zeros((), images.dtype), images)


def sample_affine(images: jax.Array, matrix: Array, shift: Array) -> jax.Array:
    """Bilinear samples of each image along an affine map, edges replicated.

    The pixel at offset p from the centre of the result shows the image at offset
    `matrix @ p + shift` from its centre.

    Args:
      images: (B, H, W, C), any float dtype.
      matrix: (B or 1, 2, 2) over (y, x).
      shift: (B or 1, 2), in pixels.

    Returns:
      (B, H, W, C) images of the dtype of `images`.
    """
    x_BHWC = _at_least_float32(images)
    b, h, w, c = x_BHWC.shape
    m = jnp.asarray(matrix, x_BHWC.dtype)[:, :, :, None, None]
    s = jnp.asarray(shift, x_BHWC.dtype)[:, :, None, None]
    p_y = (jnp.arange(h, dtype=x_BHWC.dtype) - (h - 1) / 2)[:, None]
    p_x = (jnp.arange(w, dtype=x_BHWC.dtype) - (w - 1) / 2)[None, :]

    def source(axis: int, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_BHW = m[:, axis, 0] * p_y + m[:, axis, 1] * p_x + s[:, axis] + (size - 1) / 2
        q_BHW = jnp.clip(q_BHW, 0, size - 1)
        low_BHW = jnp.floor(q_BHW)
        index_BHW = low_BHW.astype(jnp.int32)
        return index_BHW, jnp.minimum(index_BHW + 1, size - 1), (q_BHW - low_BHW)[..., None]

    top, bottom, down = source(0, h)
    left, right, across = source(1, w)
    flat = x_BHWC.reshape(b, h * w, c)

    def pixel(y_BHW: jax.Array, x_BHW: jax.Array) -> jax.Array:
        index = jnp.broadcast_to(y_BHW * w + x_BHW, (b, h, w)).reshape(b, h * w, 1)
        return jnp.take_along_axis(flat, index, axis=1).reshape(b, h, w, c)

    upper = pixel(top, left) * (1 - across) + pixel(top, right) * across
    lower = pixel(bottom, left) * (1 - across) + pixel(bottom, right) * across
    return (upper * (1 - down) + lower * down).astype(images.dtype)


def _at_least_float32(images: jax.Array) -> jax.Array:
    return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Float32, uniform in [-1, 1)."""
    return jax.random.uniform(key, shape, jnp.float32, -1, 1)
