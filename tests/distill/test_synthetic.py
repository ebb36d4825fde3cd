"""The initial synthetic set."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.types import Split
from frepo_scale.distill.synthetic import choose_rows, hard_labels, real_set, scaled_labels

KEY = jax.random.key(0)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 99))
def test_rows_are_class_major_distinct_and_of_their_class(classes, ipc, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), 5)).astype(np.int32)
    rows = choose_rows(labels, classes, ipc, jax.random.key(seed))
    np.testing.assert_array_equal(labels[rows], hard_labels(classes, ipc))
    assert len(set(rows.tolist())) == classes * ipc


def test_rows_are_uniform():
    labels = np.zeros(4, np.int32)
    counts = np.zeros(4)
    for seed in range(400):
        counts[choose_rows(labels, 1, 1, jax.random.key(seed))] += 1
    assert counts.min() > 60  # 100 expected, standard deviation 9


def test_uneven_classes():
    labels = np.array([2, 0, 1, 2, 0, 2, 1, 2], np.int32)
    rows = choose_rows(labels, 3, 2, KEY)
    assert labels[rows].tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"class 0 has 2 training images.*--gin\.IPC=2"):
        choose_rows(labels, 3, 3, KEY)


def test_labels_by_hand():
    rows = scaled_labels(np.array([1, 0]), 2)
    scale = np.sqrt(2 / 10)
    np.testing.assert_allclose(rows, np.array([[-0.5, 0.5], [0.5, -0.5]]) / scale, rtol=1e-6)


def test_the_set_holds_the_images_of_its_rows():
    images = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1)
    labels = np.repeat(np.arange(3), 4).astype(np.int32)
    made = real_set(Split(images, labels), 3, 2, KEY)
    np.testing.assert_array_equal(np.asarray(made.images).ravel() // 4, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(np.argmax(made.labels, -1), [0, 0, 1, 1, 2, 2])
