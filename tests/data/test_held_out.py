"""Which training images are held out."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.data.held_out import held_out_rows


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=2, max_size=6), st.integers(0, 99))
def test_held_out_is_five_percent_of_each_class(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    labels = np.random.default_rng(seed).permutation(labels)
    chosen = held_out_rows(labels, len(counts))
    assert [int(chosen[labels == k].sum()) for k in range(len(counts))] == [c // 20 for c in counts]


def test_held_out_is_at_most_ten_thousand():
    labels = np.repeat(np.arange(2), 150_000).astype(np.int32)
    chosen = held_out_rows(labels, 2)
    assert chosen.sum() == 10_000
    assert [chosen[labels == k].sum() for k in range(2)] == [5_000, 5_000]


def test_held_out_is_spread_over_each_class():
    chosen = np.flatnonzero(held_out_rows(np.zeros(100, np.int32), 1))
    assert chosen.tolist() == [10, 30, 50, 70, 90]
