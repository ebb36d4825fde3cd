"""Whole runs on prepared sets: from photographs to a distilled set, with stops."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.records import PreparedSet
from frepo_scale.export.formats import read_npz
from frepo_scale.main import main

pytestmark = pytest.mark.slow

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared/data/imagenet-sample.tar"
SETTINGS = {
    "IPC": 1,
    "STEPS": 40,
    "PROBE_EVERY": 20,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 5,
    "SAVE_EVERY": 5,
    "LOG_EVERY": 5,
    "EVAL_NETS": 1,
    "EVAL_STEPS": 10,
    "WIDTH": 4,
    "DEPTH": 2,
    "BATCH": 32,
    "POOL_SIZE": 2,
    "PROFILE_AT": 0,
    "DATASET": "npz",
    "DATA_PLACEMENT": "stream",
}


def photographs(path):
    """A tar of 1000 classes with one JPEG each: the real sample if it exists."""
    if PHOTOGRAPHS.exists():
        return PHOTOGRAPHS
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for label in range(1000):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
            file = io.BytesIO()
            coarse.resize((160, 120), Image.Resampling.BICUBIC).save(file, "JPEG")
            member = tarfile.TarInfo(f"train/n{label:08d}/image.JPEG")
            member.size = file.tell()
            tar.addfile(member, io.BytesIO(file.getvalue()))
    return path


def test_from_photographs_to_a_distilled_imagenet(tmp_path):
    source, prepared, workdir = tmp_path / "made.tar", tmp_path / "set", tmp_path / "run"
    # At 32 px: at 64 px, as in the recipe, the whitening matrix is sixteen times as large.
    given = ["--source", str(photographs(source)), "--out", str(prepared), "--resolution", "32"]
    assert main(["prepare", *given]) == 0
    command = ["distill", "imagenet1k_smoke.gin", "--workdir", str(workdir), "--gin.DEPTH=3"]
    assert main([*command, f"--gin.DATA_DIR={prepared}"]) == 0
    exported = read_npz(workdir / "distilled.npz")
    assert exported.images.shape == (1000, 32, 32, 3) and exported.labels.shape == (1000, 1000)
    assert exported.preprocessing.whitening.matrix.shape == (3072, 3072)
    assert np.isfinite(exported.images).all()
    # Few steps from the photographs they started as: the inverse gives them back.
    assert exported.to_pixels().std() > 20
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(row["loss"]) and 0 <= row["input_wait_fraction"] < 1 for row in rows)
    shutil.rmtree(workdir)
    shutil.rmtree(prepared)


@pytest.fixture(scope="module")
def prepared_sets(tmp_path_factory):
    """Two prepared sets of the same shape with other images."""
    root = tmp_path_factory.mktemp("sets")
    for seed in range(2):
        rng = np.random.default_rng(seed)
        np.savez(
            root / f"{seed}.npz",
            x_train=rng.integers(0, 256, (400, 8, 8, 3)).astype(np.uint8),
            y_train=np.arange(400) % 4,
            x_test=rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8),
            y_test=np.arange(40) % 4,
        )
        source, out = str(root / f"{seed}.npz"), str(root / str(seed))
        assert main(["prepare", "--source", source, "--out", out, "--resolution", "8"]) == 0
    return root / "0", root / "1"


def command(workdir, prepared, **changes):
    settings = SETTINGS | {"DATA_DIR": prepared} | changes
    return [
        *("distill", "cifar10_ipc1.gin", "--workdir", str(workdir)),
        *(f"--gin.{name}={value}" for name, value in settings.items()),
    ]


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def images(workdir):
    return read_npz(workdir / "distilled.npz").images


@pytest.fixture(scope="module")
def whole(prepared_sets, tmp_path_factory):
    """An undisturbed run on a streamed set."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(workdir, prepared_sets[0])) == 0
    return workdir


@pytest.mark.parametrize("placement", ["memory", "device"])
def test_placement_of_images_changes_nothing(whole, prepared_sets, tmp_path, placement):
    workdir = tmp_path / placement
    assert main(command(workdir, prepared_sets[0], DATA_PLACEMENT=placement)) == 0
    np.testing.assert_allclose(losses(workdir), losses(whole), rtol=1e-4)
    one, other = (json.loads((w / "result.json").read_text()) for w in (workdir, whole))
    assert one.keys() == other.keys() and one["config_sha256"] == other["config_sha256"]


def saved(workdir):
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


@pytest.mark.parametrize(("workers", "group"), [(0, False), (2, True)])
def test_a_stopped_run_ends_with_the_same_bits(whole, prepared_sets, tmp_path, workers, group):
    workdir = tmp_path / "stopped"
    given = command(workdir, prepared_sets[0], DATA_WORKERS=workers)
    process = subprocess.Popen(
        [sys.executable, "-m", "frepo_scale.main", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not saved(workdir):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if group:  # as a terminal or a scheduler does
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 42, output
    assert "Traceback" not in output
    assert 0 < saved(workdir)[-1] < SETTINGS["STEPS"]
    assert main(command(workdir, prepared_sets[0])) == 0
    np.testing.assert_array_equal(images(workdir), images(whole))


def test_another_set_is_refused_on_resume(whole, prepared_sets, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "DONE").unlink()
    assert main(command(workdir, prepared_sets[1])) == 2
    assert "are not those" in capsys.readouterr().err


@pytest.fixture
def damaged(prepared_sets, tmp_path):
    """A set, one of its shards, and a function that damages an image only batches read."""
    prepared = tmp_path / "set"
    shutil.copytree(prepared_sets[0], prepared)
    shard = min(prepared.glob("train-*"))
    found = PreparedSet.open(prepared)
    row = int(np.argmin(held_out_rows(found.train.labels, 4)))
    pixels = found.train.at(np.array([row])).tobytes()

    def damage():
        content = bytearray(shard.read_bytes())
        content[content.index(pixels) + 9] ^= 0xFF
        shard.write_bytes(content)

    return prepared, shard, damage


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_damaged_during_a_run_stops_it_with_one_line(
    damaged, tmp_path, capsys, monkeypatch, workers
):
    prepared, shard, damage = damaged
    real = PreparedSet.verify

    def verify(self):
        real(self)
        damage()

    monkeypatch.setattr(PreparedSet, "verify", verify)
    given = command(tmp_path / "run", prepared, DATA_WORKERS=workers)
    assert main(given) == 2
    err = capsys.readouterr().err
    (line,) = [text for text in err.splitlines() if text.startswith("frepo-scale: ")]
    assert f"shard {shard} is damaged" in line and "checksum" not in line
    assert "Traceback" not in err
    monkeypatch.undo()
    assert main(given) == 2  # found at once by now
    assert f"shard {shard} is damaged (its checksum differs)" in capsys.readouterr().err


def test_without_test_images_nothing_is_measured(tmp_path, capsys):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8), np.arange(60) % 2
    for label in range(2):
        (tmp_path / f"train/{label}").mkdir(parents=True)
        for row in np.flatnonzero(labels == label):
            Image.fromarray(pixels[row]).save(tmp_path / f"train/{label}/{row}.png")
    out = tmp_path / "set"
    assert main(["prepare", "--source", str(tmp_path), "--out", str(out), "--resolution", "8"]) == 0
    given = command(tmp_path / "run", out, DATASET="folder", STEPS=4)
    assert main(given) == 0
    assert "no accuracies: the data set has no test images" in capsys.readouterr().out
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert "distilled" not in result and result["held_out_images"] == 2
    assert "no accuracies" in (tmp_path / "run/report.html").read_text()
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "has no test images" in capsys.readouterr().err


def test_random_images_train_too(tmp_path):
    given = command(tmp_path / "run", "nowhere", DATA_SOURCE="noise", DATASET="cifar10", STEPS=6)
    given = [text for text in given if "DATA_PLACEMENT" not in text]
    assert main([*given, "--gin.LOG_EVERY=2"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(row["input_wait_fraction"] < 0.5 for row in rows if "loss" in row)
