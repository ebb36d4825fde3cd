"""A run on a prepared set: the same parts and whitening as on what it was prepared from."""

import shutil

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data import records
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.description import FILE, UNFINISHED
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel import runtime

SIDE, N = 6, 300  # more images than pixels, or the whitening has an undetermined tail


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """An .npz, and the set prepared from it."""
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.savez(
        path / "x.npz",
        x_train=rng.integers(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8),
        y_train=np.arange(N) % 2,
        x_test=rng.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8),
        y_test=np.arange(8) % 2,
    )
    prepare(PrepareConfig(path / "x.npz", path / "out", SIDE, workers=1), Preemption())
    return path / "x.npz", path / "out"


def sorted_rows(split):
    rows = np.column_stack([split.labels, everything(split).reshape(len(split), -1)])
    return rows[np.lexsort(rows.T)]


def test_the_same_images_with_their_labels(paths):
    source, prepared = (load_dataset(DataConfig("npz", str(path), batch=8)) for path in paths)
    assert (len(prepared.train), len(prepared.held_out), len(prepared.test)) == (286, 14, 8)
    np.testing.assert_array_equal(sorted_rows(prepared.test), sorted_rows(source.test))
    both = [
        np.concatenate([sorted_rows(found.train), sorted_rows(found.held_out)])
        for found in (source, prepared)
    ]
    # Another order has other held-out images; together they are the same.
    np.testing.assert_array_equal(*(rows[np.lexsort(rows.T)] for rows in both))


def test_its_statistics_are_those_a_run_would_fit(paths):
    found = load_dataset(DataConfig("npz", str(paths[1]), batch=8))
    stored = found.fit_preprocessing()
    found = type(found)(**{**vars(found), "statistics": None})
    fitted = found.fit_preprocessing()
    for name, value in fitted.arrays().items():
        np.testing.assert_allclose(stored.arrays()[name], value, rtol=1e-5, atol=1e-5)


def test_another_size_or_number_of_classes_is_refused(paths):
    with pytest.raises(InputError, match=r"prepared at 6 pixels.*expected 8.*--resolution 8"):
        load_dataset(DataConfig("npz", str(paths[1]), resolution=8, batch=8))
    with pytest.raises(InputError, match=r"has 2 classes.*expected 1000"):
        load_dataset(DataConfig("imagenet1k", str(paths[1]), batch=8))


def test_another_fit_is_refused_where_a_recipe_asks_for_it(paths):
    with pytest.raises(InputError, match=r"prepared with --fit crop: expected squash; prepare"):
        load_dataset(DataConfig("npz", str(paths[1]), batch=8, fit="squash"))
    load_dataset(DataConfig("npz", str(paths[1]), batch=8, fit="crop"))


def test_an_unfinished_set_is_refused(paths, tmp_path):
    (tmp_path / UNFINISHED).mkdir()
    with pytest.raises(InputError, match=rf"not finished: it has no {FILE}"):
        load_dataset(DataConfig("npz", str(tmp_path), batch=8))


def test_a_set_on_disk_gives_the_same(paths):
    both = [
        load_dataset(DataConfig("npz", str(paths[1]), batch=8, placement=placement))
        for placement in ("memory", "stream")
    ]
    assert [found.placement for found in both] == ["memory", "stream"]
    assert both[0].fingerprint == both[1].fingerprint
    for part in ("train", "held_out", "test"):
        one, other = (getattr(found, part) for found in both)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(everything(one), everything(other))


@pytest.fixture
def mixed(paths, tmp_path):
    """A copy with a shard of another set of the same names, labels and sizes, and that shard."""
    with np.load(paths[0]) as arrays:
        other = {name: 255 - x if name.startswith("x") else x for name, x in arrays.items()}
    np.savez(tmp_path / "x.npz", **other)
    prepare(PrepareConfig(tmp_path / "x.npz", tmp_path / "out", SIDE, workers=1), Preemption())
    shutil.copytree(paths[1], tmp_path / "set")
    shard = sorted((tmp_path / "set").glob("train-*"))[1]
    shutil.copy(tmp_path / "out" / shard.name, shard)
    return tmp_path / "set", shard


@pytest.mark.parametrize("placement", ["memory", "device", "stream"])
def test_a_shard_of_another_set_is_found(mixed, placement):
    path, shard = mixed
    with pytest.raises(InputError, match=rf"shard {shard} is damaged \(its checksum.*copy the set"):
        load_dataset(DataConfig("npz", str(path), batch=8, placement=placement))


def test_one_process_compares_the_checksums_of_what_stays_on_disk(mixed, monkeypatch):
    monkeypatch.setattr(runtime, "is_first", lambda: False)
    path, shard = mixed
    load_dataset(DataConfig("npz", str(path), batch=8, placement="stream"))
    with pytest.raises(InputError, match=r"its checksum differs"):  # each reads it all anyway
        load_dataset(DataConfig("npz", str(path), batch=8, placement="memory"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"bytes instead of"):
        load_dataset(DataConfig("npz", str(path), batch=8, placement="stream"))


def test_the_check_of_a_large_set_is_announced(paths, monkeypatch, capsys):
    load_dataset(DataConfig("npz", str(paths[1]), batch=8))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(records, "_LARGE", 1000)
    load_dataset(DataConfig("npz", str(paths[1]), batch=8))
    assert capsys.readouterr().err == f"frepo-scale: checking the 0 GiB of {paths[1]}\n"
