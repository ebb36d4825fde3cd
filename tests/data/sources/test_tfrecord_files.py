"""Which files are TFRecords of which split; reading them is tested in prepare/test_examples.py."""

import json

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.tfrecord_files import INFO, build_folder, read_build, record_files


def files(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("form", ["x-{}.tfrecord-{}", "{}-{}", "x-{}.tfrecords-{}"])
def test_files_by_split(tmp_path, form):
    names = [form.format("train", f"0000{i}-of-00002") for i in range(2)]
    source = files(tmp_path, *names, form.format("validation", "00000-of-00001"), "note.txt")
    found = record_files(source)
    assert [path.name for path in found["train"]] == names and len(found["validation"]) == 1
    assert build_folder(tmp_path) == tmp_path
    assert set(read_build(tmp_path).splits) == {"train", "validation"}


@pytest.mark.parametrize(
    "name",
    ["train-0000{}-of-00002", "x-train-0000{}-of-00002.gz", "x-train.array_record-0000{}-of-00002"],
)
def test_splits_in_folders_of_their_names(tmp_path, name):
    for part, count in (("train", 2), ("validation", 2)):
        (tmp_path / part).mkdir()
        files(tmp_path / part, *(name.format(i).replace("train", part) for i in range(count)))
    assert build_folder(tmp_path) == tmp_path
    found = record_files(tmp_path)
    assert found["train"] == [tmp_path / "train" / name.format(i) for i in range(2)]
    assert len(found["validation"]) == 2
    with pytest.raises(InputError) as error:
        build_folder(tmp_path / "train")
    assert error.value.fix == f"give {tmp_path}"


@pytest.mark.parametrize(
    "names",
    [
        ["x-train.tfrecord-00000-of-00002"],
        ["x-train.tfrecord-00000-of-00002", "y-train.tfrecord-00001-of-00002"],
        ["x-train.tfrecord-00001-of-00002", "x-train.tfrecord-00002-of-00002"],
    ],
)
def test_files_that_are_not_one_whole_split(tmp_path, names):
    with pytest.raises(InputError, match="TFRecord files of train"):
        record_files(files(tmp_path, *names))


@pytest.mark.parametrize(
    "splits",
    [
        5,
        "train",
        {"train": "x"},
        ["train"],
        [{"name": ["train"], "shardLengths": ["1"]}],
        [{"name": "train", "shardLengths": ["x"]}],
        [{"name": "train", "shardLengths": [1.5]}],
        [{"name": "train", "shardLengths": [None]}],
        [{"name": "train", "shardLengths": 5}],
        [{"name": "train", "shardLengths": "1"}],
        [{"name": "train", "shard_lengths": {"a": 1}}],
    ],
)
def test_a_malformed_description(tmp_path, splits):
    source = files(tmp_path, "x-train.tfrecord-00000-of-00001")
    (source / INFO).write_text(json.dumps({"name": "x", "splits": splits}))
    with pytest.raises(InputError, match=rf"{INFO} does not say how many records"):
        read_build(source)


@pytest.mark.parametrize("splits", [None, [], [{"name": "train"}], [{"name": "other"}]])
def test_a_description_without_lengths(tmp_path, splits):
    source = files(tmp_path, "x-train.tfrecord-00000-of-00001")
    (source / INFO).write_text(json.dumps({"name": "x", "splits": splits}))
    assert read_build(source).lengths == {}


def test_none(tmp_path):
    assert build_folder(files(tmp_path, "a.txt", "train.txt")) is None
