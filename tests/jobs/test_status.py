"""`frepo-scale status`: state, progress and health of a run from its files."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import to_path
from frepo_scale.core.types import DistilledSet
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.jobs.progress import Progress, read_progress
from frepo_scale.jobs.status import read_status
from frepo_scale.main import main
from frepo_scale.ops.goodput import CATEGORIES, Attempt
from frepo_scale.ops.lock import WorkdirLock

NONE = dict.fromkeys(CATEGORIES, 0.0)


@pytest.fixture
def run(tmp_path):
    """A workdir with two attempts, at step 30 of 200, saved at 25."""
    for step in ("5", "25", "30.orbax-checkpoint-tmp", "metrics"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    (tmp_path / "config.gin").write_text("# recipe: x\n")
    (tmp_path / "identity.json").write_text('{"distill.steps": 200, "evaluation.steps": 7}')
    (tmp_path / "attempts").mkdir()
    write_attempt(tmp_path, 1, "preempted", 5)
    write_attempt(tmp_path, 2, None, 25)
    rows = [{"step": s, "loss": 1 / s, "eta_seconds": 170.0, "ridge_raised": 0} for s in (29, 30)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def write_attempt(workdir, number, reason, last_step, **more):
    facts = {
        "started": 1000.0 * number, "alive": 1000.0 * number + 90, "reason": reason,
        "ended": None if reason is None else 1000.0 * number + 90, "first_step": 0,
        "last_step": last_step, "process_count": 2, "device_count": 8, "device_kind": "TPU v5e",
        "seconds": NONE | {"step": 90.0}, "saved_seconds": NONE | {"step": 60.0},
    } | more  # fmt: skip
    text = json.dumps(asdict(Attempt(**facts)))
    (workdir / "attempts" / f"attempt-{number:04d}.json").write_text(text)


def test_a_killed_run(run):
    found = read_status(run)
    assert (found.state, found.step, found.steps, found.saved_step) == ("killed", 30, 200, 25)
    assert found.saved_at == 2000 + 60 and found.eta_seconds == 170 and found.attempts == 2
    assert (found.device_count, found.device_kind) == (8, "TPU v5e")
    [line] = found.health
    assert "killed" in line


def test_running_stopped_failed_finished(run):
    lock = WorkdirLock(run / "lock.json")
    lock.acquire()
    found = read_status(run)
    assert found.state == "running" and found.health == ()
    lock.release()
    write_attempt(run, 2, "preempted", 25)
    assert read_status(run).state == "stopped"
    write_attempt(run, 2, "failed: no room", 25)
    found = read_status(run)
    assert found.state == "failed" and "no room" in found.health[0]
    write_attempt(run, 2, "diverged", 25)
    found = read_status(run)
    assert found.state == "failed" and "RIDGE" in found.health[0]
    for name in ("DONE", "result.json", "distilled.npz"):
        (run / name).touch()
    found = read_status(run)
    assert (found.state, found.eta_seconds) == ("finished", None)


@pytest.mark.parametrize(("age", "state"), [(40, "running"), (600, "killed")])
def test_a_lock_of_another_machine_counts_while_it_is_renewed(run, age, state):
    record = {"machine": "another", "host": "w-0", "pid": 1, "renewed": 5000.0}
    (run / "lock.json").write_text(json.dumps(record))
    os.utime(run / "metrics.jsonl", (5000, 5000))
    assert read_status(run, now=lambda: 5000.0 + age).state == state


def test_what_deserves_attention_is_named(run):
    write_attempt(run, 2, "preempted", None)
    write_attempt(run, 3, "preempted", None)
    (run / "attempts" / "attempt-0004.json").write_text("{")
    (run / "stuck-1.txt").touch()
    row = {"step": 30, "loss": 1.0, "input_wait_fraction": 0.5, "ridge_raised": 1.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    health = " | ".join(read_status(run).health)
    for words in ("the last 2 attempts saved nothing", "stuck-1.txt", "50 %", "RIDGE", "1 files"):
        assert words in health
    lock = WorkdirLock(run / "lock.json")
    lock.acquire()
    os.utime(run / "metrics.jsonl", (5000, 5000))
    assert "no new row of metrics for 1 h" in " ".join(read_status(run, lambda: 8700.0).health)
    lock.release()


@pytest.mark.parametrize(("seconds", "named"), [(0.8, True), (0.15, False), (None, False)])
def test_a_process_that_the_others_wait_for_is_named(run, seconds, named):
    compared = {"step": 30, "slowest_process": 3.0, "slowest_process_seconds": seconds,
                "other_processes_seconds": 0.1}  # fmt: skip
    rows = [{"step": 30, "loss": 1.0, "steps_per_second": 0.5}, compared]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [line for line in read_status(run).health if "process 3" in line]
    assert len(lines) == named and all("0.8 s" in line and "0.1 s" in line for line in lines)


def test_json_is_json_also_without_numbers(run, capsys):
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": NaN}\n')
    assert main(["status", str(run), "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert found["loss"] is None and found["saved_step"] == 25 and found["step"] == 25
    assert main(["status", str(run)]) == 0
    assert "killed, step 25 of 200 (12.5 %)" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "word"), [("file", "is a file"), ("none", "does not exist")])
def test_a_path_that_is_no_folder_is_named(tmp_path, name, word):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as refused:
        read_status(tmp_path / name)
    assert refused.value.what == f"{tmp_path / name} {word}"


def test_a_folder_that_is_no_workdir_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["status", str(tmp_path), "--since", "x"]) == 2


@pytest.mark.parametrize("steps", ["1e400", "-5", '"many"', "[1]", "null"])
def test_a_number_of_steps_that_is_none_is_not_shown(run, capsys, steps):
    (run / "identity.json").write_text(f'{{"distill.steps": {steps}}}')
    assert main(["status", str(run)]) == 0
    assert ": killed, step 30\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["metrics.jsonl", "identity.json"])
def test_a_file_that_cannot_be_read_is_one_line(run, capsys, name):
    (run / name).unlink()
    (run / name).mkdir()
    code, err = main(["status", str(run)]), capsys.readouterr().err
    if name == "metrics.jsonl":
        assert code == 2 and err.count("\n") == 1 and str(run / name) in err
    else:  # only the number of steps is missing
        assert code == 0 and err == ""


def test_progress_since_a_token(run, capsys):
    def since(token):
        assert main(["status", str(run), f"--since={token}"]) == 0
        return capsys.readouterr().out.split(maxsplit=2)

    assert since("-") == ["25/0/0", "yes", "saved step 25\n"]
    assert since("25/0/0")[:2] == ["25/0/0", "no"]
    assert since("5")[:2] == ["25/0/0", "yes"]  # of an older version of the launchers
    assert since("-1/0/0")[:2] == ["25/0/0", "yes"]
    # A checkpoint that was damaged and removed: the same step is not reached twice.
    assert since("40/0/0") == ["40/0/0", "no", "saved step 25\n"]
    (run / "checkpoints" / "007").mkdir()
    (run / "checkpoints" / "99").touch()  # a file is no checkpoint
    assert since("7/0/0")[0] == "25/0/0"


def test_networks_are_counted_as_the_program_writes_them(tmp_path):
    images = DistilledSet(*(np.zeros((2, 2), np.float32) for _ in DistilledSet._fields))
    before, advanced = read_progress(tmp_path).after(Progress())
    assert not advanced
    for settings, puts in (("a", 11), ("b", 1)):
        file = tmp_path / "evaluation_progress.json"
        nets = FinishedNets(file, {"distilled": images}, settings)
        for net in range(puts):
            nets.put("distilled", net, (0.25, 1.0))
        before, advanced = read_progress(tmp_path).after(before)
        assert advanced and before.nets == puts  # 11 are more, and one is of another evaluation
        assert read_progress(tmp_path).after(before) == (before, False)
    file.write_text("{")  # damaged: not known
    assert read_progress(tmp_path).after(before) == (before, False)


def test_the_runs_of_a_series_are_added_up(tmp_path):
    before = Progress()
    for made in ("part_00/checkpoints/20", "part_00/checkpoints/40", "part_01/checkpoints/20"):
        (tmp_path / made).mkdir(parents=True)
        before, advanced = read_progress(tmp_path).after(before)
        assert advanced
    assert before.saved == 60
    assert read_progress(tmp_path).after(before) == (before, False)


def test_parts_of_prepare(tmp_path):
    work = tmp_path / ".unfinished"
    work.mkdir()
    for name in ("train-00000-of-00002.array_record.json", "moments-00000.npz",
                 ".partial-moments-1", "settings.json"):  # fmt: skip
        (work / name).touch()
    assert read_progress(tmp_path).words == "2 parts finished"
    work.rename(tmp_path / "gone")
    (tmp_path / "dataset.json").touch()
    (tmp_path / "train-00000-of-00001.array_record").touch()
    assert read_progress(tmp_path).words == "1 parts finished"


def test_on_a_store_a_checkpoint_counts_when_it_is_committed(store):
    root = "gs://bucket/run"
    assert read_progress(to_path(root)) == Progress()
    for step, name in ((5, "commit_success.txt"), (40, "commit_success.txt"), (300, "state/x")):
        store.put(f"bucket/run/checkpoints/{step}/{name}", b"")
    assert read_progress(to_path(root)).saved == 40


def test_a_folder_without_permission_is_reported(run, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("frepo_scale.jobs.progress.children", denied)
    with pytest.raises(InputError) as caught:
        read_progress(run)
    assert str(run) in caught.value.what and "Permission denied" in caught.value.what


def test_a_store_that_does_not_answer_is_reported(monkeypatch, capsys):
    monkeypatch.setattr("frepo_scale.jobs.status._STORE_SECONDS", 0.05)
    monkeypatch.setattr("frepo_scale.jobs.status.to_path", lambda path: __import__("time").sleep(1))
    assert main(["status", "gs://bucket/run"]) == 2
    assert "gs://bucket/run did not answer" in capsys.readouterr().err


def test_it_needs_neither_jax_nor_numpy(run):
    """The launchers ask after every attempt, also on machines that do nothing else."""
    program = "import sys; from frepo_scale.main import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-S", "-c", program, "status", str(run)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0 and "step 30 of 200" in result.stdout, result


def test_the_status_of_a_series_is_that_of_all_its_runs(tmp_path):
    identity = {"distill.steps": 40, "series.parts": 3, "series.runs": 2}
    (tmp_path / "identity.json").write_text(json.dumps(identity))
    (tmp_path / "config.gin").write_text("")
    for number, step in enumerate((40, 20)):
        part = tmp_path / f"part_{number:02}"
        (part / "checkpoints" / str(step)).mkdir(parents=True)
        (part / "config.gin").write_text("")
        (part / "identity.json").write_text(json.dumps({"distill.steps": 40}))
    found = read_status(tmp_path)
    assert (found.step, found.steps, found.saved_step) == (60, 80, 60)
    assert found.state == "not started"  # of the newest run, which has no attempt here
    for name in ("DONE", "result.json"):
        (tmp_path / name).write_text("{}")
    assert read_status(tmp_path).state == "finished"
