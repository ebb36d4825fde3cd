"""benchmarks/gpu_check.py on this machine, with tiny sizes."""

import json
import math
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import gpu_check
import numpy as np
import pytest
from gpu_parts import compare, nothing_lost, roofline, step_case, useful
from gpu_parts.report import Options, Report, read_json
from gpu_parts.table import failures, table

PROGRAM = Path(gpu_check.__file__)
PARTS = list(gpu_check.LIMITS)


def run(out, *arguments):
    # Limits are in proportion to the minutes: generous ones, for busy machines.
    command = [sys.executable, str(PROGRAM), "--smoke", "--minutes", "60", "--out", str(out)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def numbers(value):
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, (int, float)):
        yield value
    elif not isinstance(value, str) and value is not None:
        for item in value:
            yield from numbers(item)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    ended = run(out)
    assert ended.returncode == 0, ended.stdout[-5000:]
    return out, ended.stdout


@pytest.mark.slow
def test_every_part_leaves_finite_numbers(results):
    out, said = results
    for part in PARTS:
        found = json.loads((out / f"{part}.json").read_text(), parse_constant=pytest.fail)
        assert found["status"] == "done"
        assert all(math.isfinite(number) for number in numbers(found)), part
        assert f"== {part}: done" in said
    names = {f"{part}.json" for part in PARTS}
    assert {path.name for path in out.iterdir()} == names | {
        "table.txt", "distilled.npz", "artifacts.tar.gz"
    }  # fmt: skip
    assert (out / "table.txt").read_text().strip() in said


@pytest.mark.slow
def test_facts_are_rates_of_this_machine(results):
    found = read_json(results[0] / "facts.json")
    assert found["platform"] == "cpu" and found["versions"]["jax"]
    assert set(found["rates"]) == {"bfloat16", "float32_default", "float32_highest", "float64"}
    assert all(1e8 < rate < 1e15 for rate in found["rates"].values())
    assert 1e8 < found["bytes_per_second"] < 1e13


@pytest.mark.slow
def test_right_has_every_check_and_all_hold(results):
    found = read_json(results[0] / "right.json")
    assert set(found["layers"]) == {"BatchNorm", "whitening", "gradient", "augmentation"}
    checked = [row for rows in found["layers"].values() for row in rows.values() if "bound" in row]
    assert len(checked) == 6 and all(row["ok"] for row in checked)
    auto = [row for row in found["regression"] if row["precision"] == "auto"]
    assert auto and all(row["ok"] and row["prediction"] < 1e-4 for row in auto)
    (parity,) = found["parity"].values()
    assert parity["passed"] == 4 and parity["failed"] == {}


@pytest.mark.slow
def test_resumed_runs_are_bit_equal_to_the_undisturbed_one(results):
    found = read_json(results[0] / "nothing_lost.json")
    codes = {name: row["exit_codes"] for name, row in found["runs"].items()}
    assert codes == {
        "undisturbed-deterministic": [0],
        "terminated-deterministic": [42, 0],
        "killed-deterministic": [-9, 0],
    }
    assert all(row["ok"] for row in found["runs"].values())
    for row in found["deterministic"].values():
        assert row["bit_equal"] and row["largest_difference"] == 0
        assert row["first_step_with_another_loss"] is None
    first, second = found["runs"]["terminated-deterministic"]["seconds_to_first_loss"]
    assert first > 0 and second > 0


@pytest.mark.slow
def test_fast_times_the_step_and_each_phase(results):
    found = read_json(results[0] / "fast.json")
    for row in found["steps"].values():
        assert row["seconds"] > 0 and 0 < row["share_of_bfloat16_rate"] < 1
        assert row["predicted"] > 0 and row["memory_gib"] > 0
    assert len(found["steps"]) == 2
    (several,) = found["several"].values()
    assert several["seconds"] > 0 and "error" not in several
    (rows,) = found["phases"].values()
    assert {"regression", "optimiser", "sum float32", "sum bfloat16"} <= set(rows)
    assert len(rows) == 6 + 4 + 2 and all(row["seconds"] > 0 for row in rows.values())
    with tarfile.open(results[0] / "artifacts.tar.gz") as tar:
        assert any(name.endswith(".xplane.pb") for name in tar.getnames())


@pytest.mark.slow
def test_useful_leaves_a_distilled_set_and_its_curve(results):
    found = read_json(results[0] / "useful.json")
    assert found["speed"]["exit_code"] == 42 and found["speed"]["steps_per_second"] > 0
    assert found["run"]["exit_code"] == 0 and found["run"]["steps"] == found["planned_steps"]
    assert [step for step, _ in found["run"]["curve"]] == [0, found["planned_steps"]]
    assert 0 < found["run"]["result"]["distilled"]["mean"] <= 1
    with np.load(results[0] / "distilled.npz") as stored:
        assert len(stored["images"]) == 10


@pytest.mark.slow
def test_a_part_that_fails_or_has_no_time_does_not_stop_the_next(tmp_path):
    out = tmp_path / "out"
    ended = run(
        out, "--parts", "right,useful,facts", "--limit", "right=0", "--recipe", "missing.gin"
    )  # fmt: skip
    assert ended.returncode == 1
    right, useful, facts = (
        read_json(out / f"{part}.json") for part in ("right", "useful", "facts")
    )
    assert right["status"] == "stopped at its time limit" and right["left_out"] == ["everything"]
    assert useful["status"] == "failed (exit code 1)" and "missing.gin" in useful["error"]
    assert facts["status"] == "done" and len(facts["rates"]) == 4
    assert failures(out, ["right", "useful", "facts"]) == ["useful: failed (exit code 1)"]


def test_a_part_that_hangs_is_killed_with_all_it_started(tmp_path, monkeypatch):
    script = tmp_path / "hangs.py"
    script.write_text(
        "import json, pathlib, subprocess, sys, time\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(out / 'facts.json').write_text(json.dumps({'child': child.pid}))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(gpu_check, "GRACE", 0.0)
    given = gpu_check.arguments(["--out", str(tmp_path)])
    gpu_check.start_part("facts", 5.0, tmp_path, given)
    found = read_json(tmp_path / "facts.json")
    assert found["status"] == "killed at its time limit" and found["seconds"] < 60
    assert not _alive(found["child"])
    assert failures(tmp_path, ["facts"]) == ["facts: killed at its time limit"]


def _alive(pid):
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def finished_run(folder, images, losses):
    folder.mkdir()
    np.savez(folder / "distilled.npz", images=images, labels=np.ones((2, 3), np.float32))
    rows = [json.dumps({"step": step, "loss": loss}) for step, loss in losses.items()]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def test_one_flipped_bit_of_a_distilled_set_is_seen(tmp_path):
    images = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 2, 2, 3)
    flipped = images.copy()
    flipped.view(np.uint32)[1, 0, 1, 2] ^= 1
    losses = {10: 0.5, 20: 0.25}
    one = finished_run(tmp_path / "one", images, losses)
    same = finished_run(tmp_path / "same", images, losses)
    other = finished_run(tmp_path / "other", flipped, losses | {20: 0.26})
    assert nothing_lost.compare(one, same) == {
        "bit_equal": True, "largest_difference": 0.0, "loss_difference": 0.0,
        "first_step_with_another_loss": None,
    }  # fmt: skip
    found = nothing_lost.compare(one, other)
    assert not found["bit_equal"] and 0 < found["largest_difference"] < 1e-6
    assert found["first_step_with_another_loss"] == 20
    assert found["loss_difference"] == pytest.approx(0.02)
    assert nothing_lost.compare(one, tmp_path / "none") == {"bit_equal": False, "missing": ["none"]}


def test_an_error_is_relative_and_nan_never_holds():
    assert compare.row([1.0, 4.5], [1.0, 5.0], 0.2)["error"] == pytest.approx(0.1)
    assert compare.row([1.0, 4.5], [1.0, 5.0], 0.2)["ok"]
    assert not compare.row([1.0, 4.5], [1.0, 5.0], 0.05)["ok"]
    assert not compare.row([1.0, float("nan")], [1.0, 5.0], 1e9)["ok"]


def test_a_whole_run_is_planned_into_the_time_left():
    speed = {"steps_per_second": 200.0, "start_seconds": 20.0, "probe_seconds": 2.0}
    steps = useful.planned_steps(speed, 200.0, False)
    assert steps % 1000 == 0 and steps / 200.0 + 20 + 16 * 2 + useful.RESERVE <= 200
    assert steps >= 20_000
    assert useful.planned_steps(speed, 60.0, False) == 0


def test_results_are_strict_json_and_written_at_once(tmp_path):
    report = Report(tmp_path / "x.json", 10.0, Options(tmp_path, tmp_path, True))
    report.put(rate=np.float32(2.0), rows=[{"error": float("nan")}], ok=np.bool_(True))
    report.put(more=1)
    text = report.path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "rate": 2.0, "rows": [{"error": None}], "ok": True, "more": 1
    }  # fmt: skip
    assert not report.has(20.0, "a long one") and report.has(1.0, "a short one")
    assert read_json(report.path)["left_out"] == ["a long one"]
    assert not list(tmp_path.glob(".*"))


def test_the_table_shows_what_a_part_cut_short_has_left(tmp_path):
    (tmp_path / "fast.json").write_text('{"status": "killed at its time limit", "seconds": 3.0}')
    text = table(tmp_path)
    assert "fast: killed at its time limit" in text and "incomplete" in text


@pytest.mark.parametrize("shape", step_case.SHAPES, ids=lambda shape: shape.name)
def test_the_roofline_counts_the_operations_that_plan_counts(shape):
    phases = roofline.work(shape, "float32")
    counted = {name: work.operations for name, work in phases.items()}
    # That count leaves out what is computed again to save memory; on the other hand it has the
    # head and elementwise operations of every forward pass, up to 4 % at 1000 classes.
    counted["synthetic backward"] /= 2
    ratio = sum(counted.values()) / step_case.step_flops(shape)
    assert ratio == pytest.approx(1.0, abs=0.04)


def test_the_roofline_takes_the_slower_of_arithmetic_and_memory():
    shape = step_case.SHAPES[0]
    sheet = roofline.DATASHEETS["H100"]
    found = roofline.predicted(shape, "float32", sheet)
    work = roofline.work(shape, "float32")
    arithmetic = work["target features"].operations / sheet["float32_default"]
    memory = work["target features"].bytes / sheet["bytes_per_second"]
    assert found["target features"] == max(arithmetic, memory)
    assert found["step"] == pytest.approx(sum(v for k, v in found.items() if k != "step"))
    slow = roofline.predicted(shape, "float32", sheet | {"bytes_per_second": 1e9})
    assert slow["optimiser"] == work["optimiser"].bytes / 1e9
    measured = {"rates": {"bfloat16": 1.0, "float32_default": 2.0, "float64": 3.0}}
    assert roofline.rates_of(measured, "NVIDIA H100 80GB HBM3")[1] == "datasheet of H100"
    assert roofline.rates_of(measured | {"bytes_per_second": 4.0}, "x")[1] == "measured"
    assert roofline.rates_of({}, "cpu") is None
