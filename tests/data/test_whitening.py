"""Pixels to net inputs and back. Parity with the authors' ZCA is in tests/parity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data import whitening, whitening_grid
from frepo_scale.data.whitening import (
    Preprocessing,
    channel_histogram,
    channel_statistics,
    empty_preprocessing,
    fit_preprocessing,
    histogram_statistics,
    moments,
    moments_preprocessing,
    zca,
)


def pixels(n, channels, seed=0, side=4):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(n, side, side, channels)).cumsum(1).cumsum(2)
    return np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.sampled_from([1, 3]), st.integers(0, 99))
def test_channel_statistics_equal_numpy(n, channels, seed):
    images = pixels(n, channels, seed)
    mean, std = channel_statistics(images)
    flat = images.reshape(-1, channels) / 255.0
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, flat.std(0), rtol=1e-5, atol=1e-6)


def test_a_constant_channel_does_not_divide_by_zero():
    images = np.full((3, 2, 2, 1), 7, np.uint8)
    assert np.isfinite(fit_preprocessing(images, whiten=False).apply(images)).all()


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("n", [20, 300])  # fewer and more images than the 48 dimensions
def test_pixels_survive_a_round_trip(whiten, n):
    images = pixels(n, 3)
    fitted = fit_preprocessing(images, whiten)
    inputs = fitted.apply(images)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(fitted.invert(inputs), images / 255.0, atol=2e-5)
    np.testing.assert_array_equal(fitted.to_pixels(inputs), images)


def test_whitened_data_have_the_spectrum_zca_gives():
    """Eigenvalues s become s / (s + reg): close to 1 for the large ones, never above."""
    images = pixels(2000, 3)
    fitted = fit_preprocessing(images, whiten=True)
    flat = fitted.apply(images).reshape(len(images), -1)
    values = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
    plain = Preprocessing(fitted.channel_mean, fitted.channel_std, None).apply(images)
    _, covariance = moments(plain.reshape(len(images), -1))
    source = np.linalg.eigvalsh(covariance)
    regularised = source / (source + 0.1 * source.mean())
    np.testing.assert_allclose(np.sort(values), np.sort(regularised), atol=1e-4)


def test_fewer_images_than_dimensions_leave_the_tail_at_one():
    images = pixels(10, 3)
    plain = fit_preprocessing(images, whiten=False).apply(images).reshape(10, -1)
    mean, covariance = moments(plain)
    values = np.linalg.eigvalsh(zca(mean, covariance, n=10).matrix.astype(np.float64))
    assert np.sum(np.abs(values - 1) < 1e-5) >= 48 - 10
    many = np.linalg.eigvalsh(zca(mean, covariance, n=48).matrix.astype(np.float64))
    assert np.sum(np.abs(many - 1) < 1e-5) < 5


def test_arrays_roundtrip():
    for whiten in (False, True):
        fitted = fit_preprocessing(pixels(60, 3), whiten)
        again = Preprocessing.from_arrays(fitted.arrays() | {"dataset": np.array("x")})
        images = pixels(5, 3, seed=1)
        np.testing.assert_array_equal(fitted.apply(images), again.apply(images))
        assert (again.whitening is not None) == whiten


def test_pixels_are_clipped_and_rounded():
    plain = Preprocessing(np.zeros(1, np.float32), np.ones(1, np.float32), None)
    x = np.array([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0], np.float32).reshape(4, 1, 1, 1)
    assert plain.to_pixels(x).ravel().tolist() == [0, 0, 1, 255]


def test_moments_of_pixels_give_the_same_whitening():
    images = pixels(300, 3)
    flat = images.reshape(300, -1).astype(np.float64)
    covariance = np.cov(flat.T, bias=True)
    found = moments_preprocessing(*channel_statistics(images), flat.mean(0), covariance, 300)
    want = fit_preprocessing(images, whiten=True)
    np.testing.assert_allclose(found.whitening.matrix, want.whitening.matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.apply(images), want.apply(images), rtol=1e-3, atol=1e-4)


def test_histograms_add_up():
    images = pixels(50, 3)
    parts = channel_histogram(images[:20]) + channel_histogram(images[20:])
    np.testing.assert_array_equal(parts, channel_histogram(images))
    for got, want in zip(histogram_statistics(parts), channel_statistics(images), strict=True):
        np.testing.assert_array_equal(got, want)


def test_few_images_give_what_the_whole_problem_gives(monkeypatch):
    """Up to the direction that the data do not determine."""
    images = pixels(10, 3)
    plain = fit_preprocessing(images, whiten=False).apply(images).reshape(10, -1)
    few = zca(*moments(plain), n=10)
    monkeypatch.setattr(whitening, "_FEW", 1000)
    whole = zca(*moments(plain), n=10)
    centred = plain - plain.mean(0)
    for one, other in ((few.matrix, whole.matrix), (few.inverse, whole.inverse)):
        np.testing.assert_allclose(centred @ one, centred @ other, atol=1e-4)
        values, others = (np.linalg.eigvalsh(x.astype(np.float64)) for x in (one, other))
        np.testing.assert_allclose(values, others, rtol=1e-4)
    np.testing.assert_allclose(few.matrix @ few.inverse, np.eye(48), atol=1e-4)


@pytest.fixture
def small_grids(monkeypatch):
    """8 px images are whitened as 2 x 2 grids of 4 px."""
    monkeypatch.setattr(whitening_grid, "LARGEST_SIDE", 4)
    monkeypatch.setattr(whitening_grid, "_SMALLEST_SIDE", 4)


def by_definition(images, n):
    """Whitened (n, 8, 8, 3), matrix (48, 48): docs/algorithm.md section 1, in float64."""
    x = images / 255.0
    x = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2))
    corners = [(slice(None), slice(a, None, 2), slice(b, None, 2)) for a in (0, 1) for b in (0, 1)]
    parts = [x[corner].reshape(len(x), -1) for corner in corners]
    covariance = np.mean([np.cov(part.T, bias=True) for part in parts], axis=0)
    values, vectors = np.linalg.eigh(covariance + 0.1 * np.trace(covariance) / 48 * np.eye(48))
    values, vectors = values[::-1].copy(), vectors[:, ::-1]
    values[n:] = 1
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    out = np.empty_like(x)
    for corner, part in zip(corners, parts, strict=True):
        out[corner] = ((part - part.mean(0)) @ matrix).reshape(len(x), 4, 4, 3)
    return out, matrix


@pytest.mark.parametrize("n", [3, 30, 300])  # 3: the eigenpairs come from the images
def test_grids_are_whitened_alike(small_grids, n):
    images = pixels(n, 3, side=8)
    fitted = fit_preprocessing(images, whiten=True)
    want, matrix = by_definition(images, n)
    np.testing.assert_allclose(fitted.whitening.matrix, matrix, atol=1e-4)
    np.testing.assert_allclose(fitted.apply(images), want, atol=1e-3)
    np.testing.assert_allclose(fitted.invert(fitted.apply(images)), images / 255.0, atol=2e-5)
    shapes = {name: array.shape for name, array in fitted.arrays().items()}
    empty = empty_preprocessing((8, 8, 3), True).arrays()
    assert shapes == {name: array.shape for name, array in empty.items()}


def test_moments_of_pixels_give_the_same_whitening_of_grids(small_grids):
    images = pixels(300, 3, side=8)
    flat = images.reshape(300, -1).astype(np.float64)
    each = [
        np.cov(images[:, a::2, b::2].reshape(300, -1).T, bias=True)
        for a in range(2)
        for b in range(2)
    ]
    found = moments_preprocessing(
        *channel_statistics(images), flat.mean(0), np.mean(each, axis=0), 300
    )
    want = fit_preprocessing(images, whiten=True)
    np.testing.assert_allclose(found.whitening.matrix, want.whitening.matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.apply(images), want.apply(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(97, 97, 3), (128, 64, 3)])
def test_what_cannot_be_whitened_is_refused(shape):
    images = np.zeros((2, *shape), np.uint8)
    with pytest.raises(InputError, match=f"images of {shape[0]}x{shape[1]} pixels cannot"):
        fit_preprocessing(images, whiten=True)
    assert fit_preprocessing(images, whiten=False).apply(images).shape == images.shape
