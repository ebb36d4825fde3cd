"""Target batches: the order is a function of (seed, step) only."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.pipeline import GlobalOrder, host_batches, host_rows
from frepo_scale.data.types import Split

IMAGES = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1)
LABELS = (np.arange(20) % 3).astype(np.int32)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_every_epoch_shows_every_image_once(size, batch, seed):
    batch = min(batch, size)
    order = GlobalOrder(size, batch, seed)
    epochs = 3
    steps = -(-epochs * size // batch)
    rows = np.concatenate([order[s] for s in range(steps)])[: epochs * size]
    for epoch in rows.reshape(epochs, size):
        assert sorted(epoch.tolist()) == list(range(size))


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 60), st.integers(0, 10**6))
def test_random_access_equals_walking(size, step):
    one, other = (GlobalOrder(size, 4, 3) for _ in range(2))
    other[0], other[step + 1]
    np.testing.assert_array_equal(one[step], other[step])


def test_a_batch_may_be_larger_than_the_rest_of_an_epoch_or_two():
    order = GlobalOrder(3, 8, 0)
    assert np.bincount(order[0]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_seeds_and_epochs_differ():
    first = GlobalOrder(50, 50, 0)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], GlobalOrder(50, 50, 1)[0])


def test_the_order_never_changes_between_versions():
    """A checkpoint must continue with the same batches in later versions."""
    assert GlobalOrder(10, 10, 7)[0].tolist() == EXPECTED[0]
    assert GlobalOrder(10, 10, 7)[3].tolist() == EXPECTED[1]


EXPECTED = ([8, 4, 1, 6, 3, 2, 7, 5, 9, 0], [2, 5, 9, 7, 3, 0, 6, 8, 4, 1])


@pytest.mark.parametrize("start", [0, 1, 7])
def test_batches_from_any_step(start):
    order = GlobalOrder(20, 6, 5)
    part = slice(2, 5)
    batches = iter(host_batches(Split(IMAGES, LABELS), order, start, part))
    rows = iter(host_rows(order, start, part))
    for step in range(start, start + 6):
        batch = next(batches)
        mine = order[step][part]
        np.testing.assert_array_equal(batch.images.ravel(), mine)
        np.testing.assert_array_equal(batch.labels, LABELS[mine])
        np.testing.assert_array_equal(next(rows), mine)
        assert batch.images.dtype == np.float32
        assert batch.labels.dtype == np.int32


def test_an_order_is_small_for_workers():
    order = GlobalOrder(10**6, 8, 1)
    order[0]
    text = pickle.dumps(order)
    assert len(text) < 1000
    np.testing.assert_array_equal(pickle.loads(text)[5], order[5])


class Broken(Split):
    """A set whose images cannot be read."""

    def at(self, rows):
        raise InputError("shard x is damaged", "as prepared")


def test_an_error_on_a_thread_is_raised_unchanged():
    batches = iter(host_batches(Broken(IMAGES, LABELS), GlobalOrder(20, 6, 5), 0, slice(6)))
    with pytest.raises(InputError, match="shard x is damaged"):
        next(batches)
