import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.data import area
from frepo_scale.data.area import area_average


def weights(pixels, start, stop, parts):
    """(parts, pixels): each row averages its share of [start, stop], by definition."""
    edges = np.linspace(start, stop, parts + 1)
    lower, upper = edges[:-1, None], edges[1:, None]
    at = np.arange(pixels)
    overlap = np.minimum(upper, at + 1) - np.maximum(lower, at)
    return np.maximum(overlap, 0) / (upper - lower)


def by_definition(image, box, size):
    left, top, right, bottom = box
    rows = weights(image.shape[0], top, bottom, size[0])
    columns = weights(image.shape[1], left, right, size[1])
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)


@st.composite
def parts_of_images(draw):
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    size = draw(st.integers(1, height)), draw(st.integers(1, width))

    def span(pixels, least):
        start = draw(st.floats(0, pixels - least))
        return start, draw(st.floats(start + least, pixels))

    (top, bottom), (left, right) = span(height, size[0]), span(width, size[1])
    shape = (height, width, draw(st.sampled_from([1, 3])))
    image = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, shape)
    return image.astype(np.uint8), (left, top, right, bottom), size


@settings(max_examples=300, deadline=None)
@given(parts_of_images())
def test_it_is_the_average(given_part):
    image, box, size = given_part
    found = area_average(image, box, size)
    assert found.shape == (*size, image.shape[2]) and found.dtype == np.uint8
    assert np.abs(found - by_definition(image, box, size)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("shape", [(375, 375, 3), (333, 500, 3), (65, 64, 1), (1200, 901, 3)])
def test_it_is_opencvs(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    theirs = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).reshape(64, 64, -1)
    mine = area_average(image, (0, 0, shape[1], shape[0]), (64, 64))
    assert np.abs(mine.astype(int) - theirs).max() <= 1  # halves: they round in float32
    assert (mine != theirs).mean() < 1e-3


def test_the_image_is_left_as_it_is_and_may_be_a_part_of_another():
    whole = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    before = whole.copy()
    part = whole[5:45, 10:50]
    found = area_average(part, (0, 0, 40, 40), (7, 7))
    assert (found == area_average(part.copy(), (0, 0, 40, 40), (7, 7))).all()
    assert (whole == before).all()


def test_sums_beyond_32_bits_are_right(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (90, 80, 3)).astype(np.uint8)
    usual = area_average(image, (0.5, 0, 80, 90), (9, 7))
    monkeypatch.setattr(area, "_LARGEST_INT32", 255 * 90 * 80 - 1)
    assert (area_average(image, (0.5, 0, 80, 90), (9, 7)) == usual).all()
