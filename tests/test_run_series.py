"""Whole series of runs of the digits: results, stops, other numbers of devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig
from frepo_scale.evaluate.membership_attacks import ATTACKS
from frepo_scale.export.formats import read_npz
from frepo_scale.main import main

pytestmark = pytest.mark.slow

SETTINGS = {
    "STEPS": 12,
    "PROBE_EVERY": 6,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 4,
    "SAVE_EVERY": 2,
    "LOG_EVERY": 4,
    "EVAL_NETS": 1,
    "EVAL_STEPS": 40,  # stops are noticed every 20
    "WIDTH": 4,
    "DEPTH": 2,
    "POOL_SIZE": 2,
    "BATCH": 32,
    "FULL_DATA": False,
    "PROFILE_AT": 0,
}
CLASSES = {"SERIES": "classes", "SERIES_PARTS": 3, "EVALUATIONS": "['continual']"}
CHUNKS = {"SERIES": "chunks", "SERIES_PARTS": 3, "SERIES_RUNS": 2, "EVALUATIONS": "['membership']"}


def command(workdir, changes):
    settings = SETTINGS | changes
    overrides = [f"--gin.{name}={value}" for name, value in settings.items()]
    return ["distill", "digits_ipc1", "--workdir", str(workdir), *overrides]


def spawn(workdir, changes, devices=1):
    return subprocess.Popen(
        [sys.executable, "-m", "frepo_scale.main", *command(workdir, changes)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def result(workdir, name="result.json"):
    return json.loads(Path(workdir, name).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed series of classes."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(workdir, CLASSES)) == 0
    return workdir


def test_a_series_of_classes(whole, capsys):
    exports = [read_npz(path) for path in sorted(whole.glob("part_*/distilled.npz"))]
    assert [export.images.shape[0] for export in exports] == [4, 3, 3]
    assert all(export.labels.shape[1] == 10 for export in exports)
    labels = np.concatenate([export.hard_labels for export in exports])
    assert sorted(labels.tolist()) == list(range(10))
    for export in exports[1:]:  # for the same inputs, so that they can be joined
        np.testing.assert_array_equal(
            export.preprocessing.channel_mean, exports[0].preprocessing.channel_mean
        )
    found = result(whole)
    (table,) = found["evaluations"]
    assert [row["x"] for row in table["rows"]] == [4, 7, 10, 4, 7, 10]
    assert list(found["series"]) == ["part_00", "part_01", "part_02"]
    page = (whole / "report.html").read_text()
    assert page.count("<svg ") == 1 and 'href="part_02/report.html"' in page
    for part in range(3):
        own = result(whole / f"part_0{part}")
        assert own["distilled"]["n"] == 1 and "random_real" in own
    assert main(command(whole, CLASSES)) == 0
    assert "is finished" in capsys.readouterr().out


def test_other_commands_on_a_series(whole, capsys):
    before = result(whole)["evaluations"]
    assert main(["evaluate", str(whole)]) == 0
    assert result(whole, "evaluation.json")["evaluations"] == before
    (whole / "report.html").unlink()
    assert main(["report", str(whole)]) == 0
    assert "part_01" in (whole / "report.html").read_text()
    capsys.readouterr()
    assert main(["export", str(whole), "--out", str(whole / "x.npz")]) == 2
    assert "part_00" in capsys.readouterr().err
    assert main(["evaluate", str(whole / "part_00")]) == 0
    export = str(whole / "part_00" / "distilled.npz")
    assert main(["evaluate", export, "--gin.SERIES=classes"]) == 2


def test_another_recipe_in_the_workdir_is_refused(whole, capsys):
    capsys.readouterr()
    assert main(command(whole, CLASSES | {"SERIES_PARTS": 2})) == 2
    assert "series.parts was 3 and is now 2" in capsys.readouterr().err


def test_a_series_that_is_stopped_continues(whole, tmp_path):
    """Stopped in its second run and in its evaluation, it ends with the same result."""
    workdir = tmp_path / "run"

    def stop(condition):
        process = spawn(workdir, CLASSES)
        deadline = time.monotonic() + 300
        while not condition():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 42, output

    stop(lambda: any((workdir / "part_01" / "checkpoints").glob("[0-9]*")))
    assert (workdir / "part_00" / "DONE").exists() and not (workdir / "part_02").exists()
    first = (workdir / "part_00" / "distilled.npz").stat().st_mtime_ns
    stop(lambda: (workdir / "evaluation_progress.json").exists())
    assert (workdir / "part_02" / "DONE").exists() and not (workdir / "result.json").exists()
    process = spawn(workdir, CLASSES)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert (workdir / "part_00" / "distilled.npz").stat().st_mtime_ns == first
    assert result(workdir) == result(whole)


def test_a_series_of_chunks(tmp_path):
    workdir = tmp_path / "run"
    assert main(command(workdir, CHUNKS)) == 0
    (table,) = result(workdir)["evaluations"]
    assert len(table["rows"]) == 2 * (1 + len(ATTACKS))
    assert all(row["n"] == 2 for row in table["rows"])
    means = [
        read_npz(workdir / f"part_0{part}" / "distilled.npz").preprocessing.channel_mean
        for part in range(2)
    ]
    assert means[0] != means[1]  # each of its own images
    for part, mean in enumerate(means):
        chunk = load_dataset(DataConfig("digits", chunk_of=f"{part}/3", batch=8))
        np.testing.assert_array_equal(chunk.fit_preprocessing().channel_mean, mean)
    page = (workdir / "report.html").read_text()
    assert page.count("<svg ") == 1


def test_some_classes_on_two_devices(tmp_path):
    """Three images on two devices: rows are padded, and the numbers are those of one device."""
    changes = {"CLASSES": "1,4,8", "CHUNK_OF": "0/2", "EVALUATIONS": "['accuracy']"}
    for devices in (1, 2):
        process = spawn(tmp_path / f"d{devices}", changes, devices)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    one, two = (read_npz(tmp_path / f"d{devices}" / "distilled.npz") for devices in (1, 2))
    assert one.hard_labels.tolist() == two.hard_labels.tolist() == [1, 4, 8]
    assert one.labels.shape == (3, 10)
    np.testing.assert_allclose(one.images, two.images, atol=1e-4)
    np.testing.assert_allclose(one.labels, two.labels, atol=1e-4)


def test_a_dry_run_of_a_series(tmp_path, capsys):
    assert main([*command(tmp_path / "run", CLASSES), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 distilled images" in out
    assert out.count("part_0") == 4 and "CLASSES = " in out
    assert not (tmp_path / "run").exists()
