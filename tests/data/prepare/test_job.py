"""Preparing from end to end, and refused input."""

import errno
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.data.description import UNFINISHED
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.prepare import finish, job, output, shards
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.registry import list_source
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.main import main
from frepo_scale.ops.preemption import Preempted


def test_the_files_of_a_finished_set(source, tmp_path, run, images, capsys):
    files = run(source, tmp_path / "out", fit="squash", filter="lanczos")
    assert sorted(files) == [
        "dataset.json",
        "labels.npz",
        "test-00000-of-00001.array_record",
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
        "whitening.npz",
    ]
    found = json.loads(files["dataset.json"])
    assert found["format"] == 2
    assert (found["name"], found["resolution"], found["channels"]) == ("photos", 8, 3)
    assert (found["fit"], found["filter"]) == ("squash", "lanczos")
    assert found["counts"] == {"train": [25, 25, 25], "test": [5, 5, 5]}
    assert found["wnids"] == list(images.wnids)
    assert [shard["records"] for shard in found["shards"]["train"]] == [64, 11]
    assert found["skipped"] == [] and found["held_out"] == 3
    assert "photos: 3 classes, 75 train, 15 test images of 8x8" in capsys.readouterr().out


def test_whitening_equals_the_fit_in_memory(tmp_path, run):
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(400, 4, 4, 3)).cumsum(1).cumsum(2)
    x = np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)
    y = np.arange(400) % 4
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    run(tmp_path / "x.npz", tmp_path / "out", resolution=4)
    found = PreparedSet.open(tmp_path / "out")
    held = held_out_rows(found.train.labels, 4)
    assert held.sum() == 20
    kept, _ = found.train.read(np.flatnonzero(~held))
    for whiten in (False, True):
        here, there = fit_preprocessing(kept, whiten).arrays(), found.preprocessing(whiten).arrays()
        assert here.keys() == there.keys()
        np.testing.assert_array_equal(here["channel_mean"], there["channel_mean"])
        np.testing.assert_array_equal(here["channel_std"], there["channel_std"])
        for name in here:
            np.testing.assert_allclose(here[name], there[name], rtol=2e-4, atol=2e-5)


def large_set(path, side):
    x = np.random.default_rng(0).integers(0, 256, (12, side, side, 3)).astype(np.uint8)
    y = np.arange(12) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])


def test_large_images_have_grids(tmp_path, run):
    large_set(tmp_path / "x.npz", 72)
    run(tmp_path / "x.npz", tmp_path / "out", resolution=72)
    with np.load(tmp_path / "out" / "whitening.npz") as found:
        assert found["whitening_matrix"].shape == (3888, 3888)
    prepared = PreparedSet.open(tmp_path / "out")
    kept = prepared.train.at(np.flatnonzero(~held_out_rows(prepared.train.labels, 2)))
    here, there = fit_preprocessing(kept, True), prepared.preprocessing(whiten=True)
    np.testing.assert_allclose(here.apply(kept), there.apply(kept), rtol=1e-3, atol=1e-3)


def test_sizes_that_cannot_be_whitened_are_refused_when_they_are_to_be(tmp_path, run):
    large_set(tmp_path / "x.npz", 67)
    run(tmp_path / "x.npz", tmp_path / "out", resolution=67)
    with pytest.raises(InputError, match="images of 67 pixels"):
        PreparedSet.open(tmp_path / "out").preprocessing(whiten=True)
    assert PreparedSet.open(tmp_path / "out").preprocessing(whiten=False).whitening is None


def test_the_same_command_again_does_nothing(source, tmp_path, run, capsys):
    first = run(source, tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run(source, tmp_path / "out", workers=2) == first
    assert "already prepared" in capsys.readouterr().out
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_another_source_is_refused(source, tmp_path, run, images):
    files = run(source, tmp_path / "out")
    images.write(source, {"test/n01440764/new.JPEG": images.encoded(99)})
    with pytest.raises(InputError, match=f"the files at {source} have changed"):
        run(source, tmp_path / "out")
    other = images.write(tmp_path / "other" / "photos", images.pictures(2, 1, ("a", "b")))
    with pytest.raises(InputError, match=f"the files at {other} have changed"):
        run(other, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


@pytest.mark.parametrize("finished", [True, False])
def test_only_images_make_it_another_source(source, tmp_path, run, images, monkeypatch, finished):
    def stopped(task, report):
        raise Preempted

    def begin():
        if finished:
            run(source, tmp_path / "out")
            return
        with monkeypatch.context() as patch, pytest.raises(Preempted):
            patch.setattr(job, "make_shard", stopped)
            run(source, tmp_path / "out")

    begin()
    image = source / "train/n01440764/n01440764_3.JPEG"
    good = image.read_bytes()
    image.write_bytes(good[:-1])
    with pytest.raises(InputError, match=f"the files at {source} have changed"):
        run(source, tmp_path / "out")
    image.write_bytes(good)
    images.write(source, {"prepare.log": b"x", "train/n01440764/notes.txt": b"x"})
    run(source, tmp_path / "out")
    assert PreparedSet.open(tmp_path / "out").description.size("train") == 75


def test_undecodable_images(small, source, tmp_path, run, images, capsys):
    images.write(
        source,
        {
            "train/n01440764/n01440764_3.JPEG": b"no image",
            "test/n01443537/n01443537_2.JPEG": images.encoded(1)[:-50],
        },
    )
    with pytest.raises(InputError, match=r"2 undecodable images .* the first n01440764/.*_3"):
        run(source, tmp_path / "out")
    with pytest.raises(InputError, match=r"at most 1 \(--skip-bad\).*add --skip-bad 2"):
        run(source, tmp_path / "out", skip_bad=1)
    named = (tmp_path / "out" / UNFINISHED / "undecodable.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in named] == [
        "n01440764/n01440764_3.JPEG",
        "n01443537/n01443537_2.JPEG",
    ]
    files = run(source, tmp_path / "out", skip_bad=2)
    assert "2 undecodable ones left out" in capsys.readouterr().out
    found = PreparedSet.open(tmp_path / "out", verify=True)
    assert found.description.counts == {"train": (24, 25, 25), "test": (5, 4, 5)}
    assert [name for name, _ in found.description.skipped] == [
        "n01440764/n01440764_3.JPEG",
        "n01443537/n01443537_2.JPEG",
    ]
    assert len(found.train.read(range(74))[0]) == 74
    assert run(source, tmp_path / "fresh", skip_bad=2) == files


def test_the_census_is_printed_and_stored(source, tmp_path, run, images, capsys):
    images.write(
        source,
        {
            "train/n01440764/e.npy": b"no image",
            "train/n01440764/.DS_Store": b"x",
            "docs/a/b.txt": b"x",
        },
    )
    run(source, tmp_path / "out", skip_bad=1)
    line = "93 entries seen = 90 images read + 1 skipped (1 not an image of a known format:"
    assert line in capsys.readouterr().out
    stored = PreparedSet.open(tmp_path / "out").description.source["census"]
    assert stored.startswith(line)
    assert "n01440764/e.npy" in stored and "docs/" in stored


@pytest.mark.parametrize("channels", [1, 3])
def test_equal_images_are_refused(tmp_path, run, channels):
    x, y = np.full((8, 8, 8, channels), 7, np.uint8), np.arange(8) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(InputError, match=r"all training images of .*x\.npz are equal"):
        run(tmp_path / "x.npz", tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_images_of_few_bits_are_noted(source, tmp_path, run, capsys):
    deep = np.full((9, 9), 1023, np.uint16)
    Image.fromarray(deep).save(source / "train" / "n01440764" / "deep.png")
    run(source, tmp_path / "out")
    assert "largest value is 1,023 of 65,535" in capsys.readouterr().out


def test_too_many_undecodable_images_stop_prepare_early(small, source, tmp_path, run, monkeypatch):
    monkeypatch.setattr(job, "_HOPELESS", 3)
    for path in source.rglob("*.JPEG"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="at least 10 undecodable"):
        run(source, tmp_path / "out")


def test_a_class_of_undecodable_images(source, tmp_path, run):
    for path in source.glob("train/n01443537/*"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="class n01443537 has no training image"):
        run(source, tmp_path / "out", skip_bad=99)


def test_too_small_a_disk_is_refused_beforehand(source, tmp_path, run, monkeypatch):
    usage = output.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        InputError, match=r"has 1,000 bytes free: expected at least [\d,]+ bytes free"
    ):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_estimate_of_disk_space_is_a_close_upper_bound(source, tmp_path, run, monkeypatch):
    seen = []
    real = output.OutputFolder.check_space
    monkeypatch.setattr(
        output.OutputFolder, "check_space", lambda self, need: (seen.append(need), real(self, need))
    )
    files = run(source, tmp_path / "out", resolution=32)
    used = sum(map(len, files.values()))
    assert used < seen[0] < 2.5 * used


def test_a_folder_of_something_else(source, tmp_path, run, images):
    images.write(tmp_path / "out", {"mine.txt": b"x"})
    with pytest.raises(InputError, match="not a prepared set"):
        run(source, tmp_path / "out")
    with pytest.raises(InputError, match="is a file"):
        run(source, tmp_path / "out" / "mine.txt")
    with pytest.raises(InputError, match="URL"):
        run(source, Path("gs://bucket/x"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"resolution": 0},
        {"resolution": 5000},
        {"filter": "cubic"},
        {"fit": "pad"},
        {"workers": 0},
        {"skip_bad": -1},
        {"name": " "},
    ],
)
def test_impossible_values(wrong):
    with pytest.raises(InputError):
        PrepareConfig(Path("a"), Path("b"), **({"resolution": 8} | wrong))


@pytest.fixture
def command():
    """The command line at 8 px with one worker; its exit code."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def go(source, out, *more):
        given = ["--source", source, "--out", out, "--resolution", 8, "--workers", 1, *more]
        return main(["prepare", *map(str, given)])

    yield go
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_command(source, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert command(source, "o", "--name", "mine") == 0
    assert PreparedSet.open("o").description.name == "mine"
    assert command(source, "o", "--resolution", 9) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["shard", "labels"])
def test_a_full_disk_is_one_line(source, tmp_path, capsys, monkeypatch, command, what):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(*arguments, **named):
        raise full

    with monkeypatch.context() as patch:
        if what == "shard":
            patch.setattr(shards, "_write", write)
        else:
            patch.setattr(finish.np, "savez", write)
        assert command(source, tmp_path / "out") == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "Traceback" not in err and f"the disk of {tmp_path / 'out'} is full" in err
    needed = int(re.search(r"expected at least ([\d,]+) bytes free", err)[1].replace(",", ""))
    before = sum(path.stat().st_size for path in (tmp_path / "out").iterdir() if path.is_file())
    assert command(source, tmp_path / "out") == 0
    after = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert after - before < needed < 4 * after


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(source, tmp_path, small, run, monkeypatch):
    monkeypatch.setattr(finish, "_LARGE", 0)  # the whitening is fitted by a worker
    assert run(source, tmp_path / "a") == run(source, tmp_path / "b", workers=2)


def test_a_shard_without_a_readable_image(tmp_path, images, run, small):
    source = images.write(tmp_path / "photos", images.pictures(12, 0, ("a", "b")))
    run(source, tmp_path / "whole", skip_bad=0)
    assert len(list((tmp_path / "whole").glob("*.array_record"))) == 3
    part = list_source(source).train.shuffled()
    for row in range(10):
        Path(part.paths[part.files[row]]).write_bytes(b"x")
    run(source, tmp_path / "out", skip_bad=10)
    found = PreparedSet.open(tmp_path / "out", verify=True)
    assert [shard.records for shard in found.description.shards["train"]] == [0, 10, 4]
    images_, labels = found.train.read(range(14))
    assert labels.tolist() == part.labels[10:].tolist() and images_.std() > 0


def test_a_finished_set_that_lost_a_shard(source, tmp_path, run):
    run(source, tmp_path / "out")
    next((tmp_path / "out").glob("train-*")).unlink()
    with pytest.raises(InputError, match="is missing"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize("there", [True, False])
def test_a_finished_set_that_was_damaged(source, tmp_path, command, capsys, there):
    given = [source, tmp_path / "out"]
    assert command(*given) == 0
    shard = next((tmp_path / "out").glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    if not there:  # the set alone was kept
        source.rename(tmp_path / "away")
    capsys.readouterr()
    assert command(*given) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"shard {shard} is damaged" in err and "remove it and give the frepo-scale" in err


def test_too_little_memory_is_reported(source, tmp_path, run, monkeypatch):
    def make(task, report):
        raise MemoryError

    monkeypatch.setattr(job, "make_shard", make)
    with pytest.raises(RunError, match="not enough memory"):
        run(source, tmp_path / "out")
