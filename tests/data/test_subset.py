"""Subsets of classes and disjoint chunks: the choices alone, and in a data set."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.subset import (
    canonical_classes,
    chosen_classes,
    chunk_rows,
    text_of,
)
from frepo_scale.data.types import everything
from frepo_scale.data.whitening import fit_preprocessing

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(lambda x: np.array(x, np.int32))


@given(st.sets(st.integers(0, 30), min_size=1))
def test_the_text_of_some_classes_names_them(classes):
    text = text_of(classes)
    assert chosen_classes(text, 31).tolist() == sorted(classes)
    assert canonical_classes(text) == text == canonical_classes(sorted(classes, reverse=True))


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("0-19", "0-19"),
        ("7, 0-2,3", "0-3,7"),
        (7, "7"),
        ((0, 2), "0,2"),
        ([3, 2], "2-3"),
        (None, None),
    ],
)
def test_one_choice_has_one_form(written, form):
    assert canonical_classes(written) == form
    assert DataConfig("digits", classes=written).classes == form


@pytest.mark.parametrize(
    "wrong",
    ["", "a", "3-1", "0-4,4", "1,1", "-1", "0-", "0:4", True, 1.5, [], [True], ["0"], {}, "0,,1"],
)
def test_classes_that_are_none_are_refused(wrong):
    with pytest.raises(InputError) as error:
        DataConfig("digits", classes=wrong)
    assert repr(wrong) in error.value.what and error.value.what.startswith("CLASSES")


@pytest.mark.parametrize("wrong", ["5/5", "0/0", "1/0", "-1/5", "a/b", "0", "", "0/5/1", 0.2, 5])
def test_chunks_that_are_none_are_refused(wrong):
    with pytest.raises(InputError) as error:
        DataConfig("digits", chunk_of=wrong)
    assert repr(wrong) in error.value.what and error.value.what.startswith("CHUNK_OF")


def test_a_class_outside_is_refused():
    with pytest.raises(InputError) as error:
        load_dataset(DataConfig("digits", classes="3,9-10", batch=8))
    assert "10" in error.value.what and "0 to 9" in error.value.expected


@given(LABELS, st.integers(1, 9))
@settings(max_examples=200)
def test_chunks_are_disjoint_complete_and_balanced(labels, count):
    chunks = np.array([chunk_rows(labels, number, count) for number in range(count)])
    assert (chunks.sum(axis=0) == 1).all()
    assert np.ptp(chunks.sum(axis=1)) <= 1
    for label in np.unique(labels):
        assert np.ptp(chunks[:, labels == label].sum(axis=1)) <= 1


def test_a_chunk_is_no_range_of_its_class_and_never_changes():
    labels = np.zeros(20, np.int32)
    # The order is part of what a published result means: it may not change between versions.
    assert np.flatnonzero(chunk_rows(labels, 0, 4)).tolist() == [2, 12, 14, 16, 19]


def write_npz(path, n=252, channels=1):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n + 20, 8, 8, channels)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(n + 20) % 256  # every image is known by a pixel
    labels = np.arange(n + 20) % 4
    np.savez(path, x_train=images[:n], y_train=labels[:n], x_test=images[n:], y_test=labels[n:])
    return str(path)


def names(part):
    return set(everything(part)[:, 0, 0, 0].tolist())


def test_classes_of_a_data_set(tmp_path):
    path = write_npz(tmp_path / "a.npz", channels=3)
    whole = load_dataset(DataConfig("npz", path, batch=8))
    some = load_dataset(DataConfig("npz", path, classes="1,3", batch=8))
    assert (whole.classes.tolist(), some.classes.tolist()) == ([0, 1, 2, 3], [1, 3])
    assert some.num_classes == whole.num_classes == 4
    for part in ("train", "held_out", "test"):
        of_all, of_some = getattr(whole, part), getattr(some, part)
        assert set(of_some.labels.tolist()) == {1, 3}
        assert names(of_some) == {
            name
            for name, label in zip(
                everything(of_all)[:, 0, 0, 0].tolist(), of_all.labels.tolist(), strict=True
            )
            if label in (1, 3)
        }
    # Sets of differing classes are made for the same inputs, so that they can be joined.
    for name, array in whole.fit_preprocessing().arrays().items():
        np.testing.assert_array_equal(some.fit_preprocessing().arrays()[name], array)
    assert some.fingerprint == whole.fingerprint


def test_chunks_of_a_data_set(tmp_path):
    path = write_npz(tmp_path / "a.npz")
    chunks = [load_dataset(DataConfig("npz", path, chunk_of=f"{i}/3", batch=8)) for i in range(3)]
    parts = [names(part) for chunk in chunks for part in (chunk.train, chunk.held_out)]
    assert sorted(name for part in parts for name in part) == list(range(252))
    for chunk in chunks:
        assert (len(chunk.train), len(chunk.held_out), len(chunk.test)) == (80, 4, 20)
        assert np.bincount(chunk.train.labels).tolist() == [20] * 4


def test_a_chunk_has_statistics_of_its_own_target_images(tmp_path):
    path = write_npz(tmp_path / "a.npz", channels=3)
    chunk = load_dataset(DataConfig("npz", path, chunk_of="1/3", batch=8))
    some = load_dataset(DataConfig("npz", path, chunk_of="1/3", classes="0", batch=8))
    expected = fit_preprocessing(everything(chunk.train), True).arrays()
    for found in (chunk, some):
        for name, array in found.fit_preprocessing().arrays().items():
            np.testing.assert_array_equal(array, expected[name])


def test_a_chunk_without_a_class_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", n=8)
    with pytest.raises(InputError) as error:
        load_dataset(DataConfig("npz", path, chunk_of="2/3", batch=1))
    assert "CHUNK_OF = '2/3'" in error.value.what and "every class" in error.value.expected


def test_a_prepared_set_gives_the_same_parts_in_every_placement(tmp_path, run):
    write_npz(tmp_path / "a.npz", channels=3)
    run(tmp_path / "a.npz", tmp_path / "set")

    def load(placement, **chosen):
        path = str(tmp_path / "set")
        return load_dataset(DataConfig("npz", path, batch=8, placement=placement, **chosen))

    whole = load("memory")
    for chosen in ({"classes": "0,2"}, {"chunk_of": "2/3"}, {"classes": "3", "chunk_of": "0/3"}):
        memory = load("memory", **chosen)
        statistics = memory.fit_preprocessing().arrays()
        of_whole = whole.fit_preprocessing().arrays()
        same = [np.array_equal(of_whole[name], array) for name, array in statistics.items()]
        assert all(same) == ("chunk_of" not in chosen)
        for placement in ("stream", "device"):
            found = load(placement, **chosen)
            assert found.placement == placement
            for part in ("train", "held_out", "test"):
                one, other = getattr(memory, part), getattr(found, part)
                np.testing.assert_array_equal(everything(one), everything(other))
                np.testing.assert_array_equal(one.labels, other.labels)
            for name, array in found.fit_preprocessing().arrays().items():
                np.testing.assert_array_equal(array, statistics[name])
    chunks = [load("stream", chunk_of=f"{number}/3") for number in range(3)]
    parts = [names(part) for chunk in chunks for part in (chunk.train, chunk.held_out)]
    assert sorted(name for part in parts for name in part) == list(range(252))


def test_noise_has_chunks_too():
    config = DataConfig("digits", images="noise", chunk_of="0/13", classes="2", batch=8)
    found = load_dataset(config)
    rows = np.arange(1300 * 10) % 10
    chunk = rows[chunk_rows(rows.astype(np.int32), 0, 13)]
    assert len(found.train) + len(found.held_out) == (chunk == 2).sum() == 100
    assert len(found.held_out) == held_out_rows(chunk, 10)[chunk == 2].sum()
