"""The moments are exact integers for any split of the work."""

import numpy as np
import pytest

from frepo_scale.data.prepare import moments as module
from frepo_scale.data.prepare.moments import (
    MomentsTask,
    join_moments,
    make_moments,
    row_blocks,
)
from frepo_scale.data.prepare.shards import _write
from frepo_scale.data.whitening import channel_histogram


def summed(tmp_path, pixels, keep, grid, shards=3):
    """The moments of `pixels[keep]`, from records."""
    tmp_path.mkdir(exist_ok=True)
    parts, flags = np.array_split(pixels, shards), np.array_split(keep, shards)
    listed = []
    for number, (part, flag) in enumerate(zip(parts, flags, strict=True)):
        _write(tmp_path / f"{number}", np.zeros(len(part), np.int32), part)
        listed.append((tmp_path / f"{number}", flag))
    shape = pixels.shape[1:]
    tasks = [
        MomentsTask(tuple(listed), shape, grid, low, high, tmp_path / f"m{low}.npz", "x")
        for low, high in row_blocks(shape, grid)
    ]
    read = []
    for task in tasks:
        make_moments(task, read.append)
    assert sum(read) == len(pixels) * len(tasks)
    return join_moments([task.result for task in tasks], shape, grid, int(keep.sum())), tasks


def exact(rows):
    """Mean and covariance of (n, D) integers in exact arithmetic, then rounded once or twice."""
    n = len(rows)
    y = rows.astype(np.int64) - 128
    products = (y.T @ y).astype(object)
    sums = y.sum(0).astype(object)
    covariance = (n * products - np.multiply.outer(sums, sums)) / (n * n)
    return rows.mean(0), covariance.astype(float)


@pytest.mark.parametrize("shape", [(3, 3, 1), (4, 4, 3)])
@pytest.mark.parametrize("rows", [5, 1024])
def test_moments_equal_exact_arithmetic(tmp_path, monkeypatch, shape, rows):
    monkeypatch.setattr(module, "ROWS_PER_TASK", rows)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, *shape)).astype(np.uint8)
    keep = rng.random(200) < 0.8
    found, _ = summed(tmp_path, pixels, keep, 1)
    mean, covariance = exact(pixels[keep].reshape(keep.sum(), -1))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(found.histogram, channel_histogram(pixels[keep]))


def test_extreme_pixels_stay_exact(tmp_path):
    """Products of 2^14 and odd ones: a float32 sum of more than 1024 would be rounded."""
    pixels = np.zeros((2100, 2, 2, 1), np.uint8)
    pixels[:, 0, 0, 0], pixels[::3, 1, 1, 0], pixels[1::2, 0, 1, 0] = 255, 255, 1
    found, tasks = summed(tmp_path, pixels, np.ones(2100, bool), 1, shards=1)
    with np.load(tasks[0].result) as result:
        y = pixels.reshape(2100, 4).astype(np.int64) - 128
        np.testing.assert_array_equal(result["products"], y.T @ y)
        np.testing.assert_array_equal(result["sums"], y.sum(0))
    assert found.covariance[0, 0] == 0


def test_cuts_into_blocks_and_shards_change_no_bit(tmp_path, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (300, 4, 4, 3)).astype(np.uint8)
    keep = np.ones(300, bool)
    whole, _ = summed(tmp_path / "a", pixels, keep, 1)
    monkeypatch.setattr(module, "ROWS_PER_TASK", 7)
    cut, _ = summed(tmp_path / "b", pixels, keep, 1, shards=11)
    assert whole.covariance.tobytes() == cut.covariance.tobytes()
    assert whole.mean.tobytes() == cut.mean.tobytes()
    np.testing.assert_array_equal(whole.covariance, whole.covariance.T)


def test_grids_share_the_mean_of_their_covariances(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (90, 6, 6, 3)).astype(np.uint8)
    found, _ = summed(tmp_path, pixels, np.ones(90, bool), 2)
    each = [exact(pixels[:, a::2, b::2].reshape(90, -1))[1] for a in range(2) for b in range(2)]
    np.testing.assert_allclose(found.covariance, np.mean(each, axis=0), rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(found.mean, pixels.reshape(90, -1).mean(0), rtol=1e-14)


def test_without_a_grid_only_sums(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (9, 5, 5, 3)).astype(np.uint8)
    found, _ = summed(tmp_path, pixels, np.ones(9, bool), None)
    assert found.covariance.shape == (0, 0)
    np.testing.assert_allclose(found.mean, pixels.reshape(9, -1).mean(0), rtol=1e-14)


def test_a_result_is_kept_only_if_intact_and_of_the_same_images(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (30, 2, 2, 1)).astype(np.uint8)
    _, (task,) = summed(tmp_path, pixels, np.ones(30, bool), 1)
    good = task.result.read_bytes()
    before = task.result.stat().st_mtime_ns
    make_moments(task, lambda n: None)
    assert task.result.stat().st_mtime_ns == before
    other = MomentsTask(**{**task.__dict__, "identity": "y"})
    make_moments(other, lambda n: None)
    assert task.result.read_bytes() != good
    task.result.write_bytes(good[:-40])
    make_moments(task, lambda n: None)
    assert task.result.read_bytes() == good


def test_a_damaged_result_is_made_again(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (30, 2, 2, 1)).astype(np.uint8)
    whole, (task,) = summed(tmp_path, pixels, np.ones(30, bool), 1)
    good = task.result.read_bytes()
    heads = [at for at in range(len(good)) if b"PK" in good[max(at - 31, 0) : at + 2]]
    for at in heads:
        for bit in {0, at % 8}:
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            task.result.write_bytes(bad)
            make_moments(
                task, lambda n: None
            )  # no error, whichever byte of the zip's headers it is
            found = join_moments([task.result], (2, 2, 1), 1, 30)
            assert found.covariance.tobytes() == whole.covariance.tobytes()
            np.testing.assert_array_equal(found.histogram, whole.histogram)
