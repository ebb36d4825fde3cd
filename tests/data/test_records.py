"""The reader of prepared sets: correct records, or one line that names the file."""

import json
import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data import held_out
from frepo_scale.data.description import (
    FILE,
    FORMAT,
    LABELS,
    UNFINISHED,
    WHITENING,
    read_description,
)
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.prepare import shards
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.records import PreparedSet
from frepo_scale.ops.preemption import Preemption

N, SIDE = 60, 4
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8)
CLASSES = np.arange(N) % 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of three training shards and one of the test part."""
    folder = tmp_path_factory.mktemp("set")
    np.savez(
        folder / "x.npz", x_train=PIXELS, y_train=CLASSES, x_test=PIXELS[:6], y_test=CLASSES[:6]
    )
    before = shards._SMALLEST_SHARD
    shards._SMALLEST_SHARD = 20
    try:
        prepare(PrepareConfig(folder / "x.npz", folder / "out", SIDE, workers=1), Preemption())
    finally:
        shards._SMALLEST_SHARD = before
    return folder / "out"


@pytest.fixture
def copy(made, tmp_path):
    """A copy to damage."""
    shutil.copytree(made, tmp_path / "set")
    return tmp_path / "set"


def label_of(image):
    """The label of exactly these pixels."""
    (row,) = np.flatnonzero((image == PIXELS).all(axis=(1, 2, 3)))
    return CLASSES[row]


def test_all_records_in_any_order(made):
    found = PreparedSet.open(made, verify=True)
    assert len(found.train) == N and len(found.test) == 6
    order = np.random.default_rng(1).permutation(np.tile(np.arange(N), 2))
    images, labels = found.train.read(order)
    assert images.dtype == np.uint8 and images.shape == (2 * N, SIDE, SIDE, 3)
    assert labels.dtype == np.int32
    assert [label_of(image) for image in images] == labels.tolist()
    for index, row in enumerate(order[:5]):
        (image,), (label,) = found.train.read([row])
        assert (image == images[index]).all() and label == labels[index]
    assert len({bytes(image) for image in images}) == N
    assert found.train.read([])[0].shape == (0, SIDE, SIDE, 3)


def test_indices_out_of_range(made):
    found = PreparedSet.open(made)
    for wrong in ([N], [-1], [0, 10**9]):
        with pytest.raises(IndexError):
            found.train.read(wrong)


def test_held_out_rows_are_counted(made):
    found = PreparedSet.open(made)
    assert held_out_rows(found.train.labels, 3).sum() == found.description.held_out == 3


def test_threads_and_pickles_read_alike(made):
    found = PreparedSet.open(made)
    want, _ = found.train.read(range(N))
    again = pickle.loads(pickle.dumps(found.train))
    np.testing.assert_array_equal(again.read(range(N))[0], want)
    fresh, wrong = PreparedSet.open(made).train, []

    def read():
        for _ in range(20):
            if not (fresh.read(range(N))[0] == want).all():
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_fingerprint_covers_pixels(made, copy):
    first = PreparedSet.open(made)
    assert first.fingerprint == PreparedSet.open(copy).fingerprint
    value = json.loads((copy / FILE).read_text())
    value["shards"]["train"][0]["sha256"] = "0" * 64
    (copy / FILE).write_text(json.dumps(value))
    with pytest.raises(InputError, match="checksum differs"):
        PreparedSet.open(copy)


def shard(folder, number=1):
    return sorted(folder.glob("train-*.array_record"))[number]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: shutil.rmtree(p), "has no dataset.json"),
        (lambda p: (p / FILE).unlink(), "has no dataset.json"),
        (lambda p: (p / FILE).rename(p / "x") and (p / UNFINISHED).mkdir(), "is not finished"),
        (lambda p: (p / FILE).write_text("{"), "damaged"),
        (lambda p: (p / FILE).write_text("[]"), "damaged"),
        (lambda p: (p / FILE).write_text('{"format": 2}'), "damaged"),
        (lambda p: (p / FILE).write_text('{"format": 2, "sha256": "x", "shards": 3}'), "damaged"),
        (lambda p: (p / FILE).write_bytes(b"\xff\xfe"), "damaged"),
        (lambda p: edit(p, format=FORMAT + 1), r"of format 3: expected format 2"),
        (lambda p: edit(p, name="other"), "damaged or was changed"),
        (lambda p: edit(p, more=1), "damaged"),
        (lambda p: shard(p).unlink(), r"train-00001-of-00003.array_record is missing"),
        (lambda p: cut(shard(p)), r"train-00001-of-00003.array_record is damaged \(\d+ bytes"),
        (lambda p: cut(p / LABELS), "labels.npz is damaged"),
        (lambda p: (p / LABELS).unlink(), "labels.npz cannot be read"),
    ],
)
def test_damage_is_reported_when_opened(copy, harm, message):
    harm(copy)
    with pytest.raises(InputError, match=message):
        PreparedSet.open(copy)


def edit(folder, **values):
    value = json.loads((folder / FILE).read_text()) | values
    (folder / FILE).write_text(json.dumps(value))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_the_whitening_is_checked_by_verify(copy):
    cut(copy / WHITENING)
    with pytest.raises(InputError, match=rf"{WHITENING} is damaged"):
        PreparedSet.open(copy, verify=True)


@pytest.mark.parametrize("harm", [cut, Path.unlink, lambda path: flip(path)])
def test_the_fitted_whitening_is_checked_when_used(copy, harm):
    found = PreparedSet.open(copy)
    harm(copy / WHITENING)
    assert found.preprocessing(whiten=False).whitening is None
    with pytest.raises(InputError) as caught:
        found.preprocessing(whiten=True)
    assert str(copy / WHITENING) in caught.value.what and "\n" not in str(caught.value)


def test_other_held_out_images_have_other_statistics(copy, monkeypatch):
    found = PreparedSet.open(copy)
    monkeypatch.setattr(held_out, "HELD_OUT_DIVISOR", 5)
    with pytest.raises(InputError) as caught:
        found.preprocessing(whiten=True)
    assert "3" in caught.value.what and "12" in caught.value.expected


def test_a_flip_is_seen_with_and_without_verify(copy):
    path = shard(copy)
    good = path.read_bytes()
    at = good.index(bytes(PIXELS[0])) if bytes(PIXELS[0]) in good else len(good) // 60
    path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
    with pytest.raises(InputError, match=r"train-00001-of-00003.array_record is damaged \(its"):
        PreparedSet.open(copy, verify=True)
    found = PreparedSet.open(copy)
    with pytest.raises(InputError, match=r"train-00001-of-00003.array_record is damaged"):
        found.train.read(range(N))
    assert len(found.train.read(range(20))[0]) == 20  # the other shards are fine


def replace(path, records):
    """Replaces a shard by other intact records and updates the description."""
    writer = ArrayRecordWriter(str(path), shards.WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    folder = path.parent
    value = json.loads((folder / FILE).read_text())
    for one in value["shards"]["train"]:
        if one["file"] == path.name:
            one["bytes"] = path.stat().st_size
    (folder / FILE).write_text(json.dumps(value))
    resign(folder)


def resign(folder):
    """Makes the checksum of a changed description right."""
    value = json.loads((folder / FILE).read_text())
    for _ in range(2):
        try:
            fine = read_description(folder)
        except InputError:
            import hashlib

            body = {k: v for k, v in value.items() if k not in ("sha256", "fitted")}
            text = json.dumps(body, sort_keys=True)
            value["sha256"] = hashlib.sha256(text.encode()).hexdigest()
            (folder / FILE).write_text(json.dumps(value))
        else:
            assert fine.fingerprint == value["sha256"]


def test_records_of_another_set(copy):
    found = PreparedSet.open(copy)
    images, labels = found.train.read(range(20, 40))
    good = [int(k).to_bytes(4, "little") + bytes(x) for k, x in zip(labels, images, strict=True)]
    for records, message in (
        ([*good[:5], good[5][:-1], *good[6:]], "a record of 51 bytes instead of 52"),
        ([*good[:5], good[6], good[5], *good[7:]], "record [56] of .* has label"),
        ([b"\xff\xff\xff\xff" + good[0][4:], *good[1:]], "has label 4294967295"),
        (good[:-1], "19 of 20 records can be read"),
    ):
        replace(shard(copy), records)
        with pytest.raises(InputError, match=rf"train-00001-of-00003.*{message}|{message}"):
            PreparedSet.open(copy).train.read(range(N))
    replace(shard(copy), good)
    assert len(PreparedSet.open(copy).train.read(range(N))[0]) == N


@settings(
    max_examples=150, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_reported_or_harmless(made, tmp_path, data):
    """A file cut, a bit flipped or pieces exchanged: refused, or all records are correct."""
    folder = tmp_path / "set"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    name = data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    good = (folder / name).read_bytes()
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["cut", "flip", "exchange", "zero", "append"]))
    if kind == "cut":
        bad = bad[:at]
    elif kind == "flip":
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "exchange":
        other = data.draw(st.integers(0, len(good) - 1))
        size = min(64, len(good) - max(at, other))
        first, second = bytes(bad[at : at + size]), bytes(bad[other : other + size])
        bad[at : at + size], bad[other : other + size] = second, first
    elif kind == "zero":
        bad[at : at + 40] = bytes(len(bad[at : at + 40]))
    else:
        bad += bytes(bad[:at])
    (folder / name).write_bytes(bytes(bad))
    try:
        found = PreparedSet.open(folder)
        images, labels = found.train.read(range(len(found.train)))
    except InputError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return
    assert [label_of(image) for image in images] == labels.tolist()
    assert len(labels) == N


@settings(
    max_examples=60, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_of_the_same_size_behind_an_open_reader(made, tmp_path, data):
    """The size is right, so only the reader itself can see it."""
    folder = tmp_path / "set"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    path = shard(folder, data.draw(st.integers(0, 2)))
    bad = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(bad))
    found = PreparedSet.open(folder)
    for row in range(N):
        try:
            (image,), (label,) = found.train.read([row])
        except InputError as error:
            assert path.name in str(error)
            continue
        assert label_of(image) == label == found.train.labels[row]


def test_exchanged_shards_never_give_a_wrong_label(copy):
    first, second = shard(copy, 0), shard(copy, 1)
    os.rename(first, copy / "x")
    os.rename(second, first)
    os.rename(copy / "x", second)
    with pytest.raises(InputError):
        PreparedSet.open(copy, verify=True)
    with pytest.raises(InputError, match=r"labels\.npz"):
        PreparedSet.open(copy).train.read(range(N))


def test_a_missing_folder():
    with pytest.raises(InputError, match=r"has no dataset.json"):
        PreparedSet.open(Path("nowhere"))
