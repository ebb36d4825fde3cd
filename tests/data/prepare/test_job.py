"""Preparing from end to end, and what is refused."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.data.description import UNFINISHED
from frepo_scale.data.prepare import job, place
from frepo_scale.data.prepare.inputs import list_source
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.main import main


def test_what_lies_there_in_the_end(source, tmp_path, run, images, capsys):
    files = run(source, tmp_path / "out", fit="squash", filter="lanczos")
    assert sorted(files) == [
        "dataset.json",
        "labels.npz",
        "test-00000-of-00001.array_record",
        "train-00000-of-00002.array_record",
        "train-00001-of-00002.array_record",
        "whitening.npz",
    ]
    told = json.loads(files["dataset.json"])
    assert told["format"] == 1
    assert (told["name"], told["resolution"], told["channels"]) == ("photos", 8, 3)
    assert (told["fit"], told["filter"], told["decode"]) == ("squash", "lanczos", "full")
    assert told["counts"] == {"train": [25, 25, 25], "test": [5, 5, 5]}
    assert told["wnids"] == list(images.wnids)
    assert [shard["records"] for shard in told["shards"]["train"]] == [64, 11]
    assert told["skipped"] == [] and told["held_out"] == 3
    assert "photos: 3 classes, 75 train, 15 test images of 8x8" in capsys.readouterr().out


def test_whitening_equals_the_fit_in_memory(tmp_path, run):
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(400, 4, 4, 3)).cumsum(1).cumsum(2)
    x = np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)
    y = np.arange(400) % 4
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    run(tmp_path / "x.npz", tmp_path / "out", resolution=4)
    found = PreparedSet.open(tmp_path / "out")
    held = found.held_out()
    assert held.sum() == 20
    kept, _ = found.train.__getitems__(np.flatnonzero(~held))
    for whiten in (False, True):
        here, there = fit_preprocessing(kept, whiten).arrays(), found.preprocessing(whiten).arrays()
        assert here.keys() == there.keys()
        np.testing.assert_array_equal(here["channel_mean"], there["channel_mean"])
        np.testing.assert_array_equal(here["channel_std"], there["channel_std"])
        for name in here:
            np.testing.assert_allclose(here[name], there[name], rtol=2e-4, atol=2e-5)


def test_large_images_have_grids(tmp_path, run):
    x = np.random.default_rng(0).integers(0, 256, (12, 72, 72, 1)).astype(np.uint8)
    y = np.arange(12) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    run(tmp_path / "x.npz", tmp_path / "out", resolution=72)
    with np.load(tmp_path / "out" / "whitening.npz") as found:
        assert found["grid"] == 2 and found["covariance"].shape == (1296, 1296)
    with pytest.raises(InputError, match="at most 64 pixels"):
        PreparedSet.open(tmp_path / "out").preprocessing(whiten=True)
    assert PreparedSet.open(tmp_path / "out").preprocessing(whiten=False).whitening is None


def test_the_same_command_again_does_nothing(source, tmp_path, run, capsys):
    first = run(source, tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run(source, tmp_path / "out", workers=2) == first
    assert "already prepared" in capsys.readouterr().out
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_another_source_is_refused(source, tmp_path, run, images):
    run(source, tmp_path / "out")
    images.write(source, {"test/n01440764/new.JPEG": images.encoded(99)})
    other = images.write(tmp_path / "other" / "photos", images.pictures(2, 1, ("a", "b")))
    with pytest.raises(InputError, match="source is"):
        run(other, tmp_path / "out")


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
    assert len(found.train.__getitems__(range(74))[0]) == 74
    assert run(source, tmp_path / "fresh", skip_bad=2) == files


def test_a_hopeless_source_is_given_up_early(small, source, tmp_path, run, monkeypatch):
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


def test_too_small_a_disk_is_told_beforehand(source, tmp_path, run, monkeypatch):
    usage = place.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(place.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"has 0 MiB free: expected at least \d MiB"):
        run(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_estimate_of_room_is_above_and_not_far(source, tmp_path, run, monkeypatch):
    seen = []
    real = place.Place.check_room
    monkeypatch.setattr(
        place.Place, "check_room", lambda self, need: (seen.append(need), real(self, need))
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
        {"decode": "fast"},
        {"workers": 0},
        {"skip_bad": -1},
        {"name": " "},
    ],
)
def test_impossible_values(wrong):
    with pytest.raises(InputError):
        PrepareConfig(Path("a"), Path("b"), **({"resolution": 8} | wrong))


def test_the_command(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    arguments = ["prepare", "--source", str(source), "--out", "o", "--resolution", "8"]
    try:
        assert main([*arguments, "--workers", "1", "--name", "mine"]) == 0
        assert PreparedSet.open("o").description.name == "mine"
        assert main([*arguments, "--resolution", "9"]) == 2
        assert "other settings" in capsys.readouterr().err
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(source, tmp_path, small, run):
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
    images_, labels = found.train.__getitems__(range(14))
    assert labels.tolist() == part.labels[10:].tolist() and images_.std() > 0


def test_a_finished_set_that_lost_a_shard(source, tmp_path, run):
    run(source, tmp_path / "out")
    next((tmp_path / "out").glob("train-*")).unlink()
    with pytest.raises(InputError, match="is missing"):
        run(source, tmp_path / "out")


def test_too_little_memory_is_told(source, tmp_path, run, monkeypatch):
    def make(task, report):
        raise MemoryError

    monkeypatch.setattr(job, "make_shard", make)
    with pytest.raises(RunError, match="not enough memory"):
        run(source, tmp_path / "out")
