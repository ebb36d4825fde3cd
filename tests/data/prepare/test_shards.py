"""One shard is made, reused if intact, or made again."""

import io
import os

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.data.prepare.shards import ShardTask, make_shard, shard_name, shard_size
from frepo_scale.data.sources.registry import list_source


@pytest.fixture
def task(tmp_path, images):
    """A shard of six images to make."""

    def make(changed=None, **named):
        files = images.pictures(2, 0) | (changed or {})
        listing = list_source(images.write(tmp_path / "source", files))
        settings = {
            "shard": tmp_path / "s.array_record",
            "note": tmp_path / "s.json",
            "images": listing.train.shuffled(),
            "shape": (8, 8, 3),
            "fit": "crop",
            "kernel": "area",
        }
        return ShardTask(**(settings | named))

    return make


def test_records_are_labels_and_pixels_in_order(task):
    one = task()
    counted = []
    result = make_shard(one, counted.append)
    assert sum(counted) == 6 and result.records == 6 and result.bad == ()
    records = ArrayRecordReader(str(one.shard)).read_all()
    assert [int.from_bytes(r[:4], "little") for r in records] == one.images.labels.tolist()
    for row, record in enumerate(records):
        with open(one.images.paths[one.images.files[row]], "rb") as file:
            want = np.asarray(Image.open(io.BytesIO(file.read())))[:, 2:22]  # 24x20, the centre
        got = np.frombuffer(record[4:], np.uint8).reshape(8, 8, 3)
        assert abs(int(got.mean()) - want.mean()) < 2


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "note"])
def test_what_is_not_intact_is_made_again(task, harm):
    one = task()
    first = make_shard(one, lambda n: None)
    good = one.shard.read_bytes()
    stamp = one.shard.stat().st_mtime_ns
    assert make_shard(one, lambda n: None) == first
    assert one.shard.stat().st_mtime_ns == stamp
    match harm:
        case "cut":
            one.shard.write_bytes(good[:-1])
        case "flip":
            one.shard.write_bytes(good[:99] + bytes([good[99] ^ 1]) + good[100:])
        case "gone":
            one.shard.unlink()
        case "note":
            one.note.write_text('{"records": 6}')
    assert make_shard(one, lambda n: None) == first
    assert one.shard.read_bytes() == good
    assert one.shard.stat().st_mtime_ns != stamp


def test_undecodable_images_are_named_and_decoded_again(task, images):
    bad = {"train/n01443537/n01443537_1.JPEG": images.encoded(5)[:-40]}
    result = make_shard(task(bad), lambda n: None)
    assert result.records == 5
    ((row, reason),) = result.bad
    assert task(bad).images.names[row] == "n01443537/n01443537_1.JPEG"
    assert "truncated" in reason
    assert make_shard(task(), lambda n: None).records == 6  # repaired


def test_sources_that_vanish_or_shrink(task, tmp_path):
    one = task()
    path = tmp_path / "source/train/n01440764/n01440764_0.JPEG"
    path.write_bytes(path.read_bytes()[:50])
    assert "ends after 50 of" in make_shard(one, lambda n: None).bad[0][1]
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        make_shard(one, lambda n: None)
    path.symlink_to("nowhere")
    assert "a link to a missing file" in make_shard(one, lambda n: None).bad[0][1]


def test_a_stop_leaves_no_files(task, tmp_path):
    def stop(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shard(task(), stop)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_sizes_of_shards():
    assert shard_size(1_281_167, 12_292) == 8192
    assert shard_size(10, 12_292) == 64
    assert shard_size(50_000, 3_076) == 1563
    assert shard_size(10**6, 4 + 1024 * 1024 * 3) == 42
    assert shard_name("train", 3, 40) == "train-00003-of-00040.array_record"


def test_a_pipe_is_not_opened(task, tmp_path):
    one = task()
    path = tmp_path / "source/train/n01440764/n01440764_0.JPEG"
    path.unlink()
    os.mkfifo(path)
    ((_, reason),) = make_shard(one, lambda n: None).bad
    assert reason == "not a plain file"
