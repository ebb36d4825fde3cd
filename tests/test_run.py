"""Whole runs on real digits: their files, and that a stop does not change them."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_run import RATES

from frepo_scale.evaluate.fit import Fitter
from frepo_scale.export.formats import read_npz
from frepo_scale.main import main
from frepo_scale.ops import checkpoint
from frepo_scale.ops.goodput import read_ledger
from frepo_scale.plan import cpu

pytestmark = pytest.mark.slow

SETTINGS = {
    "STEPS": 60,
    "PROBE_EVERY": 20,
    "PROBE_NETS": 1,
    "PROBE_STEPS": 20,
    "SAVE_EVERY": 10,
    "LOG_EVERY": 5,
    "EVAL_NETS": 2,
    "EVAL_STEPS": 30,
    "FULL_DATA": False,
    "WIDTH": 8,
    "BATCH": 64,
}


def command(workdir, **changes):
    settings = SETTINGS | changes
    overrides = [f"--gin.{name}={value}" for name, value in settings.items()]
    return ["distill", "digits_ipc1.gin", "--workdir", str(workdir), *overrides]


def spawn(workdir, devices=1, **changes):
    return subprocess.Popen(
        [sys.executable, "-m", "frepo_scale.main", *command(workdir, **changes)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_NUM_CPU_DEVICES": str(devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def saved_steps(workdir):
    return sorted(
        int(p.name) for p in Path(workdir, "checkpoints").glob("[0-9]*") if "." not in p.name
    )


def arrays(workdir):
    with np.load(Path(workdir, "distilled.npz")) as stored:
        return {name: stored[name] for name in stored.files}


def assert_equal_runs(one, other):
    mine, theirs = arrays(one), arrays(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert np.array_equal(mine[name], theirs[name]), name
    results = [json.loads(Path(w, "result.json").read_text()) for w in (one, other)]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    assert main(command(workdir)) == 0
    return workdir


def test_what_a_run_leaves(whole):
    for name in (
        "config.gin",
        "operative_config.gin",
        "metrics.jsonl",
        "distilled.npz",
        "result.json",
        "report.html",
    ):
        assert (whole / name).stat().st_size > 0
    assert [p.name for p in sorted((whole / "gallery").iterdir())] == [
        f"step_{step:07d}.png" for step in (0, 20, 40, 60)
    ]
    assert list((whole / "tensorboard").glob("events.out.tfevents.*"))
    assert list((whole / "tensorboard").rglob("*.xplane.pb"))  # the profile
    assert saved_steps(whole) == [50, 60]

    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    logged = [r for r in rows if "loss" in r]
    assert [r["step"] for r in logged] == list(range(5, 61, 5))
    wanted = {
        "step",
        "loss",
        "regression_loss",
        "label_loss",
        "target_accuracy",
        "grad_norm_images",
        "grad_norm_labels",
        "learning_rate",
        *RATES,
    }
    assert all(wanted <= r.keys() for r in logged)
    assert [r["step"] for r in rows if "probe_accuracy" in r] == [0, 20, 40, 60]

    result = json.loads((whole / "result.json").read_text())
    for name in ("distilled", "distilled_last", "distilled_hard", "random_real"):
        assert result[name].keys() == {"mean", "std", "n"}
        assert result[name]["n"] == 2
    assert "full_data" not in result
    assert result["steps"] == 60
    assert result["selected_by"] == "held-out"
    best = max((r for r in rows if "probe_accuracy" in r), key=lambda r: r["probe_accuracy"])
    assert result["selected_step"] == best["step"]
    assert len(result["config_sha256"]) == 64
    page = (whole / "report.html").read_text()
    assert f"{100 * result['distilled']['mean']:.1f}" in page


def test_the_export_is_consistent(whole):
    export = read_npz(whole / "distilled.npz")
    assert export.images.shape == (10, 8, 8, 1)
    assert export.labels.shape == (10, 10)
    pixels = export.images * export.preprocessing.channel_std + export.preprocessing.channel_mean
    np.testing.assert_array_equal(export.to_pixels(), np.clip(np.rint(255 * pixels), 0, 255))
    assert export.evaluation["norm"] == "none"
    assert export.evaluation["steps"] == 30
    assert export.provenance["dataset"] == "digits"


def test_events_hold_what_metrics_hold(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"]) | set(events.Tags()["tensors"])
    assert {"loss", "probe_accuracy", "steps_per_second"} <= scalars


def test_the_same_command_twice_gives_the_same_bits(whole, tmp_path):
    assert main(command(tmp_path / "again")) == 0
    assert_equal_runs(whole, tmp_path / "again")


def test_a_step_compiled_ahead_gives_the_same_bits(whole, tmp_path, capsys, monkeypatch):
    for name, small in {"_SIDE": 64, "_IMAGES": 8, "_OPERATIONS": 1.0, "_BYTES": 2**16}.items():
        monkeypatch.setattr(cpu, name, small)  # the rates of this CPU do not matter here
    overrides = command(tmp_path)[4:]
    planned = ["plan", "digits_ipc1", "--on", "cpu", "--compile", str(tmp_path / "run")]
    assert main([*planned, *overrides]) == 0
    assert "frepo-scale distill digits_ipc1 --workdir" in capsys.readouterr().out
    assert main(command(tmp_path / "run")) == 0
    assert "compiled ahead, for cpu" in capsys.readouterr().out
    assert_equal_runs(whole, tmp_path / "run")


def test_another_seed_gives_another_result(whole, tmp_path):
    assert main(command(tmp_path / "other", SEED=1, STEPS=20)) == 0
    assert not np.array_equal(arrays(whole)["images"], arrays(tmp_path / "other")["images"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 42), (signal.SIGKILL, -9)])
def test_stopped_and_resumed_equals_undisturbed(whole, tmp_path, number, code):
    workdir = tmp_path / "stopped"
    process = spawn(workdir)
    wait_for(lambda: saved_steps(workdir), process)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    assert not (workdir / "result.json").exists()
    stopped_at = saved_steps(workdir)[-1]
    assert 0 < stopped_at < 60
    assert main(command(workdir)) == 0
    assert_equal_runs(whole, workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    undisturbed = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for row in rows + undisturbed:
        for rate in RATES:
            row.pop(rate, None)
    assert rows == undisturbed


def test_rcig_stopped_and_resumed_equals_undisturbed(tmp_path, capsys, monkeypatch):
    """With its count of dropped parts, the running average and the learned temperature."""
    changes = {
        "ALGORITHM": "rcig",
        "ALGORITHM_ARGS": {"inner_steps": 1, "implicit_steps": 1},
        **{"RIDGE": 5e-4, "RIDGE_SCALE": "absolute", "AVERAGE": 0.9, "OUTER_LOSS": "cross_entropy"},
        **{"STEPS": 8, "SAVE_EVERY": 3, "LOG_EVERY": 2, "PROBE_EVERY": 4, "PROBE_STEPS": 2},
        **{"EVAL_NETS": 1, "EVAL_STEPS": 2, "WIDTH": 4, "DEPTH": 1, "BATCH": 16},
        "GRADIENT_IMAGES": 50,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(command(whole, **changes)) == 0
    assert "GRADIENT_IMAGES = 50 changes nothing" in capsys.readouterr().out
    save = checkpoint.Checkpointer.save

    def save_and_stop(checkpointer, step, state, facts):
        save(checkpointer, step, state, facts)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpointer, "save", save_and_stop)
        assert main(command(stopped, **changes)) == 42
    assert not (stopped / "result.json").exists()
    assert 3 <= saved_steps(stopped)[-1] < 8
    assert main(command(stopped, **changes)) == 0
    assert_equal_runs(whole, stopped)
    assert "implicit_dropped_share" in json.loads((whole / "result.json").read_text())


def test_started_on_four_devices_and_finished_on_one(whole, tmp_path):
    """Ten images over four devices are padded there; the checkpoint fits any mesh."""
    workdir = tmp_path / "moved"
    process = spawn(workdir, devices=4)
    wait_for(lambda: saved_steps(workdir), process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 42, output
    assert main(command(workdir)) == 0
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (workdir, whole)
    ]
    losses = [[r["loss"] for r in found if "loss" in r] for found in rows]
    assert len(losses[0]) == len(losses[1]) == 12
    # Float32: the same run up to rounding, which grows along the way.
    np.testing.assert_allclose(losses[0][:4], losses[1][:4], rtol=1e-3)
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-2)
    assert json.loads((workdir / "result.json").read_text())["steps"] == 60


def test_a_damaged_checkpoint_is_named_and_the_older_one_used(whole, tmp_path, capsys):
    workdir = tmp_path / "damaged"
    shutil.copytree(whole, workdir)
    for name in ("result.json", "distilled.npz"):
        (workdir / name).unlink()
    data = max(
        (workdir / "checkpoints" / "60").rglob("*"), key=lambda p: p.is_file() and p.stat().st_size
    )
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x10
    data.write_bytes(content)
    assert main(command(workdir)) == 0
    said = capsys.readouterr()
    assert "checkpoint" in said.out + said.err
    assert "is damaged" in said.out + said.err
    assert "using checkpoint 50" in said.out + said.err
    assert_equal_runs(whole, workdir)


def test_a_save_that_failed_is_not_recorded_as_committed(tmp_path, capsys, monkeypatch):
    failed = []
    wait = checkpoint._Manager.wait_until_finished

    def wait_until_finished(manager):
        wait(manager)
        if manager.latest_step() == 20 and not failed:  # Orbax raises a failure once
            failed.append(20)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint._Manager, "wait_until_finished", wait_until_finished)
    assert main(command(tmp_path)) == 1
    assert "could not save" in capsys.readouterr().err.splitlines()[-1]
    assert failed and read_ledger(tmp_path / "attempts").attempts[-1].last_step == 10


def test_a_finished_run_is_left_alone(whole, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    assert main(command(whole)) == 0
    assert "finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()} == before


def test_divergence_stops_with_the_step_and_the_last_good_checkpoint(tmp_path, capsys):
    workdir = tmp_path / "diverged"
    assert main(command(workdir, LEARNING_RATE=1e30, SAVE_EVERY=1, PROBE_EVERY=1000)) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("frepo-scale:")]
    assert "not finite at step" in line
    assert "RIDGE" in line or "LEARNING_RATE" in line
    assert not (workdir / "result.json").exists()


def test_without_held_out_images_the_last_step_is_selected(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 15)  # floor(5 %) of 15 is 0
    images = rng.integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    workdir = tmp_path / "run"
    changes = {"DATASET": "npz", "DATA_DIR": tmp_path / "few.npz", "BATCH": 8, "STEPS": 10}
    assert main(command(workdir, **changes)) == 0
    result = json.loads((workdir / "result.json").read_text())
    assert result["selected_by"] == "last step"
    assert result["selected_step"] == 10
    assert result["held_out_images"] == 0
    assert result["distilled"] == result["distilled_last"]


def test_a_stopped_evaluation_resumes(whole, tmp_path, capsys, monkeypatch):
    workdir = tmp_path / "evaluated"
    shutil.copytree(whole, workdir)
    given = ["evaluate", str(workdir), "--gin.EVAL_NETS=2", "--gin.EVAL_STEPS=20"]
    trained, fit = [], Fitter.fit

    def fit_and_stop(*arguments):
        trained.append(arguments[2])
        found = fit(*arguments)
        if len(trained) == 3:  # a signal that is seen in the next net
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Fitter, "fit", fit_and_stop)
        assert main(given) == 42
    assert "the same command resumes" in capsys.readouterr().out
    assert not (workdir / "evaluation.json").exists()
    stopped = len(trained)
    with monkeypatch.context() as patch:
        patch.setattr(Fitter, "fit", lambda *args: trained.append(args[2]) or fit(*args))
        assert main(given) == 0
    assert len(trained) == stopped + 6 - 3  # two nets of three sets
    assert json.loads((workdir / "evaluation.json").read_text())["distilled"]["n"] == 2


def test_evaluate_and_export_a_run(whole, tmp_path, capsys):
    result = (whole / "result.json").read_text()
    pod = ["--gin.MESH_POOL=16", "--gin.MESH_DATA=16"]  # not in the folder of the run
    assert main(["evaluate", str(whole), "--gin.EVAL_NETS=1", "--gin.EVAL_STEPS=20", *pod]) == 0
    assert "distilled" in capsys.readouterr().out
    assert json.loads((whole / "evaluation.json").read_text())["distilled"]["n"] == 1
    (whole / "evaluation.json").unlink()
    assert (whole / "result.json").read_text() == result
    out = tmp_path / "set.npz"
    assert main(["export", str(whole), "--format", "npz", "--out", str(out)]) == 0
    assert main(["evaluate", str(out)]) == 0
    table = capsys.readouterr().out
    first = json.loads(result)["distilled"]["mean"]
    assert f"{100 * first:.1f}" in table  # the same protocol gives the same number
    folder = tmp_path / "set"
    assert main(["export", str(whole), "--format", "folder", "--out", str(folder)]) == 0
    assert len(list(folder.rglob("*.png"))) == 10
