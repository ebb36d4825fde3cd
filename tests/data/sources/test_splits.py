"""Which files are the shards of which split."""

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.splits import find_shards

END = (".tar", ".tar.gz", ".tgz")


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar", "imagenet1k-validation-00.tar"),
        ("train-00000-of-00002.tar", "train-00001-of-00002.tar", "test-00000-of-00001.tar"),
        ("x_train_1.tar", "x_train_2.tar", "x_val_1.tar"),
        ("a.b-train-0.tar.gz", "a.b-train-1.tar.gz", "a.b-valid-0.tar.gz"),
        ("train-00000-of-00002-0123456789abcdef.tar", "train-00001-of-00002-fedcba98.tar"),
        ("train/0.tar", "train/1.tar", "val/0.tar"),
        ("train/x-000.tar", "train/x-001.tar", "test/x-000.tar"),
    ],
)
def test_names(tmp_path, names):
    found = find_shards(files(tmp_path, *names, "README.md", ".train-3.tar", "notes.tar"), END)
    assert found is not None
    found.check()
    want = [tmp_path / name for name in names]
    assert found.splits["train"] == want[:2]
    assert sum(map(len, found.splits.values())) == len(names)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("x-train-0.tar", "x-train-2.tar"), "number 1"),
        (("x-train-2.tar", "x-train-3.tar"), "number 1"),
        (("train-0-of-3.tar", "train-1-of-3.tar"), "number 2"),
        (("x-train-0.tar", "y-train-1.tar"), "several"),
        (("x-train-0.tar", "x-train-00.tar"), "number 1"),
    ],
)
def test_shards_that_are_not_one_set(tmp_path, names, named):
    found = find_shards(files(tmp_path, *names), END)
    assert found is not None
    with pytest.raises(InputError) as error:
        found.check()
    assert named in error.value.what


def test_one_part_or_several_sets(tmp_path):
    files(tmp_path / "a", "train/x-train-0.tar", "val/x-val-0.tar")
    with pytest.raises(InputError) as error:
        find_shards(tmp_path / "a" / "train", END)
    assert str(tmp_path / "a") in error.value.fix
    assert find_shards(tmp_path, END).folder == tmp_path / "a"
    files(tmp_path / "b", "train-0.tar")
    with pytest.raises(InputError) as error:
        find_shards(tmp_path, END)
    assert str(tmp_path / "a") in error.value.fix


def test_what_looks_like_a_test_part(tmp_path):
    found = find_shards(files(tmp_path, "train-0.tar", "val.7z", "names.txt"), END)
    assert found is not None
    census = Census()
    like = found.count(census, ("train",), ("names.txt",))
    assert like is not None and "val.7z" in like.what
    census.check(0)
    assert found.count(Census(), ("train", "test"), ()) is None
    (tmp_path / "val.7z").unlink()
    assert found.count(Census(), ("train",), ()) is None


def test_none(tmp_path):
    assert find_shards(files(tmp_path, "val-0.tar", "n01440764.tar", "train"), END) is None
