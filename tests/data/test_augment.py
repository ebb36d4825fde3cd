"""The evaluation augmentation against NumPy, SciPy and OpenCV, and its statistics."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from frepo_scale.core.errors import InputError
from frepo_scale.data import augment as aug
from frepo_scale.data.augment import AugmentConfig, augment

NOTHING = AugmentConfig(
    flip=False,
    brightness=0,
    contrast=0,
    saturation=0,
    crop_scale=1,
    rotate_degrees=0,
    translate=0,
    cutout=0,
)
# Each operation alone at the strength of docs/algorithm.md section 5; flip is handled apart: it
# has none.
ALONE = {
    "colour": dataclasses.replace(NOTHING, brightness=0.25, contrast=0.25, saturation=0.25),
    "crop": dataclasses.replace(NOTHING, crop_scale=1.25),
    "rotate": dataclasses.replace(NOTHING, rotate_degrees=15.0),
    "translate": dataclasses.replace(NOTHING, translate=0.125),
    "cutout": dataclasses.replace(NOTHING, cutout=0.25),
}
apply_config = jax.jit(augment, static_argnames="config")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sampled(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The (H, W, C) image at real-valued (y, x), by SciPy."""
    return np.stack(
        [
            ndimage.map_coordinates(image[..., c].astype(np.float64), [y, x], None, 1, "nearest")
            for c in range(image.shape[-1])
        ],
        axis=-1,
    )


def grid(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:h, :w].astype(np.float64)
    return y, x


# The sampler and its three uses.


def test_rotation_agrees_with_scipy() -> None:
    images, degrees = noise(3, 11, 8, 2), np.array([15.0, -7.5, 90.0], np.float32)
    result = np.asarray(aug.rotate_by(images, degrees))
    y, x = grid(11, 8)
    y, x = y - 5, x - 3.5
    for image, angle, got in zip(images, np.deg2rad(degrees), result, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        want = sampled(image, cos * y + sin * x + 5, -sin * y + cos * x + 3.5)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_rotation_agrees_with_opencv_on_a_smooth_pattern() -> None:
    y, x = grid(33, 33)
    image = (np.sin(x / 5) + np.cos(y / 7) + 0.05 * x).astype(np.float32)
    got = np.asarray(aug.rotate_by(image[None, :, :, None], np.array([12.0])))[0, :, :, 0]
    matrix = cv2.getRotationMatrix2D((16, 16), 12.0, 1.0)  # positive is anticlockwise there too
    want = cv2.warpAffine(
        image, matrix, (33, 33), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    np.testing.assert_allclose(got, want, atol=1e-2)


def test_a_quarter_turn_is_exact() -> None:
    images = noise(2, 9, 9, 3)
    np.testing.assert_allclose(
        aug.rotate_by(images, np.array([90.0, 90.0])), np.rot90(images, axes=(1, 2)), atol=1e-5
    )


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -3), (-1, 2), (20, 20)])
def test_translation_by_whole_pixels_is_a_shift_with_replicated_edges(
    down: int, right: int
) -> None:
    images = noise(2, 7, 10, 3)
    result = aug.translate_by(images, np.full((2, 2), (down, right), np.float32))
    rows = np.clip(np.arange(7) - down, 0, 6)
    columns = np.clip(np.arange(10) - right, 0, 9)
    np.testing.assert_array_equal(result, images[:, rows][:, :, columns])


def test_translation_by_half_a_pixel_averages_neighbours() -> None:
    images = noise(1, 4, 5, 1)
    result = np.asarray(aug.translate_by(images, np.array([[0.0, 0.5]])))
    np.testing.assert_allclose(
        result[:, :, 1:], (images[:, :, 1:] + images[:, :, :-1]) / 2, rtol=1e-6
    )
    np.testing.assert_allclose(result[:, :, 0], images[:, :, 0], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("position", [(0.0, 0.0), (1.0, 0.25), (1.0, 1.0)])
def test_zoom_agrees_with_scipy(scale: float, position: tuple[float, float]) -> None:
    images = noise(2, 10, 13, 3)
    positions = np.full((2, 2), position, np.float32)
    result = aug.zoom_by(images, np.full(2, scale, np.float32), positions)
    y, x = grid(10, 13)
    y = scale * (y + 0.5) + position[0] * (1 - scale) * 10 - 0.5
    x = scale * (x + 0.5) + position[1] * (1 - scale) * 13 - 0.5
    for image, got in zip(images, result, strict=True):
        np.testing.assert_allclose(got, sampled(image, y, x), atol=2e-5)


def ramp(side: int) -> np.ndarray:
    """(1, side, side, 2): each pixel holds its own (y, x)."""
    return np.stack(grid(side, side), axis=-1).astype(np.float32)[None]


def test_random_strengths_stay_within_bounds_and_fill_them() -> None:
    side, n = 32, 400
    images = np.repeat(ramp(side), n, axis=0)
    centre = np.s_[:, 12:20, 12:20]  # away from the edges, where the ramp is linear
    key = jax.random.key(3)

    zoomed = np.asarray(aug.crop(key, images, 1.25))[centre]
    slope_B = (zoomed[:, 1:, :, 0] - zoomed[:, :-1, :, 0]).mean(axis=(1, 2))
    assert 0.8 - 1e-4 <= slope_B.min() < 0.82 and 1.22 < slope_B.max() <= 1.25 + 1e-4
    assert abs(np.mean(np.log(slope_B))) < 0.03
    inward = np.asarray(aug.crop(key, images, 1.25))[slope_B < 1]
    assert inward.min() >= 0 and inward.max() <= side - 1

    moved = np.asarray(aug.translate(key, images, 0.125))[centre] - images[centre]
    shift_B2 = moved.mean(axis=(1, 2))
    assert np.all(np.abs(shift_B2) <= 4 + 1e-4) and np.all(np.abs(shift_B2).max(axis=0) > 3.8)
    assert abs(np.corrcoef(shift_B2.T)[0, 1]) < 0.2

    turned = np.asarray(aug.rotate(key, images, 15.0))[centre]
    sine_B = (turned[:, :, 1:, 0] - turned[:, :, :-1, 0]).mean(axis=(1, 2))
    angle_B = np.rad2deg(np.arcsin(sine_B))
    assert -15 - 1e-3 <= angle_B.min() < -14.5 and 14.5 < angle_B.max() <= 15 + 1e-3


# Flip, colour, cutout.


def test_flip_is_an_involution_and_hits_half() -> None:
    images, key = noise(1000, 3, 4, 1), jax.random.key(5)
    once = np.asarray(aug.flip(key, images))
    np.testing.assert_array_equal(aug.flip(key, once), images)
    mirrored = np.all(once == images[:, :, ::-1], axis=(1, 2, 3))
    kept = np.all(once == images, axis=(1, 2, 3))
    assert np.all(mirrored ^ kept)
    assert 430 < mirrored.sum() < 570


def test_colour_agrees_with_its_definition() -> None:
    images = noise(3, 5, 6, 3)
    b, c, s = np.array([0.1, -0.2, 0]), np.array([1.2, 0.8, 1]), np.array([0.9, 1, 1.25])
    result = aug.adjust_colour(images, b, c, s)
    for i in range(3):
        x = images[i].astype(np.float64) + b[i]
        x = x.mean() + c[i] * (x - x.mean())
        grey = x.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(result[i], grey + s[i] * (x - grey), atol=1e-5)


def test_saturation_leaves_one_channel_alone() -> None:
    images = noise(4, 5, 5, 1)
    one = np.ones(4)
    np.testing.assert_array_equal(
        aug.adjust_colour(images, 0 * one, one, 1.2 * one),
        aug.adjust_colour(images, 0 * one, one, one),
    )


def test_colour_strengths_are_bounded_and_drawn_per_image() -> None:
    n, key = 400, jax.random.key(7)
    images = noise(n, 6, 6, 3)
    bright = np.asarray(aug.colour(key, images, 0.25, 0, 0)) - images
    assert np.ptp(bright, axis=(1, 2, 3)).max() < 1e-5  # the same for every pixel and channel
    shift_B = bright.mean(axis=(1, 2, 3))
    assert -0.2501 < shift_B.min() < -0.24 and 0.24 < shift_B.max() < 0.2501

    contrasted = np.asarray(aug.colour(key, images, 0, 0.25, 0))
    log_B = np.log(contrasted.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3)))
    assert -0.2501 < log_B.min() < -0.24 and 0.24 < log_B.max() < 0.2501
    np.testing.assert_allclose(
        contrasted.mean(axis=(1, 2, 3)), images.mean(axis=(1, 2, 3)), atol=1e-6
    )

    saturated = np.asarray(aug.colour(key, images, 0, 0, 0.25))
    log_B = np.log(saturated.std(axis=-1).mean((1, 2)) / images.std(axis=-1).mean((1, 2)))
    assert -0.2501 < log_B.min() < -0.24 and 0.24 < log_B.max() < 0.2501
    np.testing.assert_allclose(saturated.mean(axis=-1), images.mean(axis=-1), atol=1e-6)


def test_cutout_is_one_square_inside_of_every_allowed_side() -> None:
    images = np.ones((600, 16, 20, 2), np.float32)
    result = np.asarray(aug.cutout(jax.random.key(9), images, 0.25))
    sides, tops, lefts = [], [], []
    for image in result:
        np.testing.assert_array_equal(image[..., 0], image[..., 1])
        rows, columns = np.nonzero(image[..., 0] == 0)
        side = np.ptp(rows) + 1
        assert side == np.ptp(columns) + 1 and len(rows) == side**2
        sides.append(int(side))
        tops.append(rows.min())
        lefts.append(columns.min())
    assert set(sides) == {1, 2, 3, 4}  # floor(16 / 4)
    assert set(np.unique(result)) == {0.0, 1.0}
    assert min(tops) == min(lefts) == 0 and max(tops) == 15 and max(lefts) == 19


def test_cut_hole_at_the_given_position() -> None:
    images = np.ones((2, 5, 6, 1), np.float32)
    result = aug.cut_hole(images, np.array([0, 2]), np.array([[0, 0], [1, 3]]))
    want = images.copy()
    want[1, 1:3, 3:5] = 0
    np.testing.assert_array_equal(result, want)


# The whole.


def test_zero_strength_is_the_identity() -> None:
    images = noise(4, 9, 12, 3)
    for seed in range(30):
        result = apply_config(jax.random.key(seed), images, config=NOTHING)
        np.testing.assert_allclose(result, images, atol=1e-6)


@pytest.mark.parametrize("with_flip", [True, False])
def test_exactly_one_operation_per_batch_equally_often(with_flip: bool) -> None:
    # The operation depends on the key alone. With every strength but one at zero, a key changes
    # the images under one of the configurations only: that one names the operation it drew.
    images, keys = noise(12, 8, 8, 3), 240
    names = [*ALONE, "flip"] if with_flip else list(ALONE)
    counts = dict.fromkeys(names, 0)
    quiet = dataclasses.replace(NOTHING, flip=with_flip)
    for seed in range(keys):
        key = jax.random.key(seed)
        base = np.asarray(apply_config(key, images, config=quiet))
        changed = []
        if not np.allclose(base, images, atol=1e-5):
            assert with_flip
            changed.append("flip")
        for name, config in ALONE.items():
            config = dataclasses.replace(config, flip=with_flip)
            if not np.allclose(apply_config(key, images, config=config), base, atol=1e-5):
                changed.append(name)
        assert len(changed) == 1, (seed, changed)
        counts[changed[0]] += 1
    expected = keys / len(names)
    assert all(abs(n - expected) < 4.5 * np.sqrt(expected) for n in counts.values()), counts


def test_same_key_same_result_also_without_jit() -> None:
    images, config = noise(5, 8, 8, 3), AugmentConfig(flip=True)
    for seed in range(8):
        key = jax.random.key(seed)
        first = apply_config(key, images, config=config)
        np.testing.assert_array_equal(first, apply_config(key, images, config=config))
        np.testing.assert_allclose(first, augment(key, jnp.asarray(images), config), atol=2e-5)
    other = [np.asarray(apply_config(jax.random.key(s), images, config=config)) for s in range(8)]
    assert len({o.tobytes() for o in other}) == 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype: jnp.dtype) -> None:
    images, config = noise(4, 8, 8, 3), AugmentConfig(flip=True)
    for seed in range(12):
        key = jax.random.key(seed)
        result = apply_config(key, jnp.asarray(images, dtype), config=config)
        assert result.dtype == dtype
        want = apply_config(key, images, config=config)
        np.testing.assert_allclose(np.asarray(result, np.float32), want, atol=0.05)


def test_coordinates_are_not_rounded_to_the_dtype_of_the_images() -> None:
    stripes = np.tile(np.arange(96) % 2, (1, 96, 1))[..., None].astype(np.float32)
    stripes_b16 = jnp.asarray(stripes, jnp.bfloat16)
    for operation, strength in [(aug.rotate_by, [7.0]), (aug.translate_by, [[20.3, 20.3]])]:
        want = operation(stripes, np.array(strength, np.float32))
        got = operation(stripes_b16, np.array(strength, np.float32))
        np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=0.005)


def test_float64_is_kept_and_draws_the_same_numbers() -> None:
    images, config = noise(4, 8, 8, 3), AugmentConfig(flip=True)
    for seed in range(16):
        want = apply_config(jax.random.key(seed), images, config=config)
        with jax.enable_x64(True):
            key = jax.random.key(seed)
            result = apply_config(key, jnp.asarray(images, jnp.float64), config=config)
            assert result.dtype == jnp.float64
        np.testing.assert_allclose(result, want, atol=2e-5)


SHAPES = st.tuples(
    st.integers(1, 4), st.integers(1, 13), st.integers(1, 13), st.sampled_from([1, 3])
)
GEOMETRY = AugmentConfig(flip=True, brightness=0, contrast=0, saturation=0)


@settings(max_examples=5, deadline=None)  # each shape compiles
@given(SHAPES, st.integers(0, 2**30))
def test_any_shape(shape: tuple[int, int, int, int], seed: int) -> None:
    images = noise(*shape, seed=seed % 1000)
    # Pixels are moved or erased: no value is invented outside an image's range and 0.
    low = np.minimum(images.min(axis=(1, 2), keepdims=True), 0)
    high = np.maximum(images.max(axis=(1, 2), keepdims=True), 0)
    for number in range(12):
        result = apply_config(jax.random.key(seed + number), images, config=GEOMETRY)
        assert result.shape == shape and result.dtype == jnp.float32
        assert np.all(result >= low - 1e-5) and np.all(result <= high + 1e-5)


@pytest.mark.parametrize("images", [np.zeros((2, 3, 3, 1), np.uint8), np.zeros((3, 3, 1))])
def test_wrong_images_are_refused(images: np.ndarray) -> None:
    with pytest.raises(TypeError, match="expected float"):
        augment(jax.random.key(0), images, AugmentConfig(flip=True))


@pytest.mark.parametrize(
    "wrong",
    [{"crop_scale": 0.8}, {"cutout": 1.5}, {"brightness": -1}, {"flip": 1}, {"translate": "0.1"}],
)
def test_wrong_strengths_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"AugmentConfig.{next(iter(wrong))}"):
        AugmentConfig(**{"flip": True, **wrong})


def test_rows_have_the_same_draws_wherever_they_are() -> None:
    """Each operation is met within these keys; a batch in parts is that batch as a whole."""
    config, images = AugmentConfig(flip=True), noise(6, 8, 8, 3)
    rows = np.arange(10, 16)
    by_row = jax.jit(aug.augment_rows, static_argnames="config")
    met = set()
    for number in range(12):
        key = jax.random.key(number)
        met.add(int(jax.random.randint(jax.random.split(key)[0], (), 0, 6, jnp.int32)))
        whole = np.asarray(by_row(key, images, rows, config))
        some = np.array([4, 1, 2, 0, 5, 3])
        np.testing.assert_array_equal(by_row(key, images[some], rows[some], config), whole[some])
        assert np.abs(whole - images).max() > 0.01
    assert met == set(range(6))
    same = np.broadcast_to(images[:1], images.shape)
    assert np.abs(np.diff(by_row(jax.random.key(0), same, rows, config), axis=0)).max() > 0.01
