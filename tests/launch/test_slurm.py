"""launch/slurm.sbatch with a fake srun and scontrol; the test is the queue."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


class Slurm:
    def __init__(self, bench, helpers) -> None:
        self.bench, self.state = bench, bench.top / "slurm"
        self.wait_for, here = helpers.wait_for, helpers.here
        self.state.mkdir()
        for name in ("srun", "scontrol"):
            bench.fake(
                name, f'#!/bin/sh\nexec "{sys.executable}" -S "{here}/fake_slurm.py" {name} "$@"\n'
            )
        # sbatch runs a copy.
        self.script = bench.top / "spool" / "slurm_script"
        self.script.parent.mkdir()
        self.script.write_bytes((bench.repo / "launch" / "slurm.sbatch").read_bytes())
        self.environment = {
            "FAKE_SLURM": str(self.state),
            "SLURM_JOB_ID": "77",
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_SUBMIT_DIR": str(bench.repo),
        }
        self.script_path = os.path.relpath(self.script, bench.repo / "launch")

    def start(self, *args, restart=0, **environment):
        more = (
            self.environment | {"SLURM_RESTART_COUNT": str(restart)}
            if restart
            else self.environment
        )
        return self.bench.start(self.script_path, *args, **(more | environment))

    def queue(self, *args, most=9):
        """Starts the job as often as it asks for it; the results."""
        results = []
        while len(results) < most:
            before = self.requeued
            results.append(self.bench.end(self.start(*args, restart=len(results))))
            if self.requeued == before:
                break
        return results

    @property
    def requeued(self) -> int:
        file = self.state / "requeued"
        return file.read_text().count("77\n") if file.exists() else 0

    def signal_tasks(self, number) -> None:
        """To every process of every task, as Slurm does; the tasks may be older than the file."""
        self.wait_for((self.state / "tasks").exists)
        for pid in (self.state / "tasks").read_text().split():
            os.killpg(int(pid), number)

    def arguments(self, *settings):
        return ["digits_ipc1.gin", "--workdir", str(self.bench.workdir), *settings]


@pytest.fixture
def slurm(bench, helpers):
    return Slurm(bench, helpers)


def test_preempted_requeued_and_finished(slurm, bench, helpers):
    arguments = slurm.arguments("--gin.HOLD=0:7,1:7")
    process = slurm.start(*arguments)
    helpers.wait_for(lambda: bench.calls(0) and bench.calls(1) and bench.steps())
    slurm.signal_tasks(signal.SIGTERM)
    result = bench.end(process)
    assert result.code == 0 and slurm.requeued == 1, result
    step = bench.steps()[-1]
    assert f"attempt 1: code 42, saved step {step}" in result.err
    result = bench.end(slurm.start(*arguments, restart=1))
    assert result.code == 0 and slurm.requeued == 1, result
    assert "attempt 2: code 0, saved step 20" in result.err
    environment = bench.calls(1)[1]["environment"]
    assert environment["FREPO_CLUSTER"] == "auto" and environment["SLURM_PROCID"] == "1"
    assert not any(name.startswith("FREPO_C") and name != "FREPO_CLUSTER" for name in environment)
    assert not any(map(helpers.alive, bench.pids()))


def test_every_argument_arrives(slurm, bench, nasty):
    [result] = slurm.queue(*slurm.arguments("--", *nasty))
    assert result.code == 0, result
    for process in (0, 1):
        assert bench.calls(process)[0]["arguments"] == ["distill", *slurm.arguments(*nasty)]


def test_a_bucket_that_cannot_be_read_is_not_called_empty(slurm, bench):
    bench.workdir.mkdir()
    (bench.workdir / "unreadable").touch()
    [result] = slurm.queue(*slurm.arguments("--gin.STEPS=3"))
    assert result.code == 0 and "what is saved is not known" in result.err, result
    assert "nothing saved" not in result.err and "the store does not answer" in result.err


@pytest.mark.parametrize("code", [1, 2])
def test_a_failure_is_not_requeued_although_srun_returns_134(slurm, code):
    [result] = slurm.queue(*slurm.arguments("--gin.STEPS=100000", f"--gin.DIE=1:7:{code}"))
    assert result.code == code and slurm.requeued == 0, result


def test_a_killed_process_is_requeued(slurm, bench):
    results = slurm.queue(*slurm.arguments("--gin.STEPS=60", "--gin.DIE=1:8:137"))
    assert [r.code for r in results] == [0, 0] and slurm.requeued == 1, results
    assert "attempt 1: code 42" in results[0].err


def test_a_finished_net_of_the_final_evaluation_is_progress(slurm):
    results = slurm.queue(*slurm.arguments("--gin.NETS=5"))
    assert [r.code for r in results] == [0] * 6 and slurm.requeued == 5, results
    assert "attempt 6: code 0, saved step 20" in results[-1].err


def test_what_an_older_version_noted_is_read(slurm, bench):
    notes = bench.cwd / "slurm-77.state"
    notes.mkdir()
    (notes / "progress").write_text("5 1\n")
    result = bench.end(slurm.start(*slurm.arguments("--gin.DIE=0:1:42,1:1:42"), restart=4))
    assert result.code == 0 and "attempt 5: code 42, nothing saved" in result.err, result
    assert (notes / "progress").read_text() == "5/0/0 2 0\n"


def test_a_hung_task_is_killed_and_the_job_requeued(slurm, bench, helpers):
    process = slurm.start(*slurm.arguments("--gin.STEPS=100000"), FAKE_WAIT="2")
    helpers.wait_for(lambda: bench.calls(0) and bench.calls(1) and bench.steps())
    stands_still = bench.calls(1)[0]["pid"]
    os.kill(stands_still, signal.SIGSTOP)
    slurm.signal_tasks(signal.SIGTERM)
    try:
        helpers.wait_for(lambda: process.poll() is not None)
    finally:
        with contextlib.suppress(ProcessLookupError):  # else srun waits on, and we for srun
            os.kill(stands_still, signal.SIGKILL)
    result = bench.end(process)
    assert result.code == 0 and slurm.requeued == 1, result
    assert f"attempt 1: code 42, saved step {bench.steps()[-1]}" in result.err
    assert not any(map(helpers.alive, bench.pids()))


def test_three_attempts_without_progress_are_not_requeued(slurm):
    deaths = ",".join(f"0:{n}:42,1:{n}:42" for n in (6, 7, 8, 9))
    results = slurm.queue(*slurm.arguments(f"--gin.DIE={deaths}"))
    assert [r.code for r in results] == [0, 0, 0, 42], results  # the first saved step 5
    assert "giving up: 3 " in results[-1].err


def test_an_end_by_a_stranger_is_not_an_attempt_without_progress(slurm, bench):
    notes = bench.cwd / "slurm-77.state"
    notes.mkdir()
    (notes / "progress").write_text("-1/0/0 2 0\n")
    with open(bench.top / "slurm-77.out", "w") as out:  # as sbatch does
        done = subprocess.run(
            ["bash", str(slurm.script), *slurm.arguments("--gin.CUTS=1")],
            cwd=bench.cwd, stdout=out, stderr=out,
            env=bench.environment | slurm.environment | {"SLURM_RESTART_COUNT": "1"},
        )  # fmt: skip
    assert done.returncode == 0 and slurm.requeued == 1
    assert (notes / "progress").read_text() == "-1/0/0 2 1\n"


def test_another_program_runs_and_tells_the_progress_and_nothing_is_installed(
    slurm, bench, helpers
):
    """As with a script that starts a container."""
    other = bench.top / "in a container"
    helpers.write_program(other, f'#!/bin/sh\necho $1 >>"{bench.top}/said"\n'
                          f'exec "{bench.program}.real" "$@"\n')  # fmt: skip
    bench.program.rename(f"{bench.program}.real")
    for kind in ("base", "dev", "tpu"):
        (bench.repo / ".venv" / f"installed-{kind}").unlink()
    deaths = "--gin.DIE=0:7:42,1:7:42"
    results = [
        bench.end(slurm.start(*slurm.arguments(deaths), restart=n, FREPO_PROGRAM=str(other)))
        for n in (0, 1)
    ]
    assert [r.code for r in results] == [0, 0] and slurm.requeued == 1, results
    assert "attempt 1: code 42, saved step 5" in results[0].err
    assert (bench.top / "said").read_text().split().count("distill") == 4
    assert not bench.program.exists()


def test_a_task_that_lacked_memory_is_not_requeued(slurm, bench, helpers):
    counts, real = bench.top / "counts", bench.program.with_name("real")
    bench.program.rename(real)
    # Written at once: the other task may be reading it.
    kill = f'echo oom_kill 1 >"{counts}.$$"; mv "{counts}.$$" "{counts}"; kill -9 $$'
    helpers.write_program(
        bench.program, f'#!/bin/sh\n[ $1 = status ] && exec "{real}" "$@"\n{kill}\n'
    )
    result = bench.end(slurm.start(*slurm.arguments(), FREPO_OOM_COUNTS=str(counts)))
    assert result.code == 1 and slurm.requeued == 0, result
    assert "giving up" in result.err and "DATA_PLACEMENT=stream" in result.err


def test_cancelled_it_waits_for_the_tasks_and_is_not_requeued(slurm, bench, helpers):
    later = str(int(time.time()) + 3600)
    process = slurm.start(*slurm.arguments("--gin.STEPS=100000"), SLURM_JOB_END_TIME=later)
    helpers.wait_for(lambda: bench.calls(0) and bench.calls(1) and bench.steps())
    process.send_signal(signal.SIGTERM)
    slurm.signal_tasks(signal.SIGTERM)
    result = bench.end(process)
    assert result.code == 42 and slurm.requeued == 0, result
    assert not any(map(helpers.alive, bench.pids()))


@pytest.mark.parametrize("version", [22, 23])
def test_out_of_time_while_saving_it_is_requeued_before_slurm_kills_all(
    slurm, bench, helpers, version
):
    over = {"SLURM_JOB_END_TIME": str(int(time.time()))}
    if version < 23:  # it sets no variable
        local = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime())
        bench.fake("squeue", f'#!/bin/sh\n[ "$5" = %e ] && [ "$3" = 77 ] && echo {local}\n')
        over = {}
    process = slurm.start(*slurm.arguments("--gin.STEPS=100000"), **over)
    helpers.wait_for(lambda: bench.calls(0) and bench.calls(1) and bench.steps())
    process.send_signal(signal.SIGTERM)
    helpers.wait_for(lambda: slurm.requeued)
    process.send_signal(signal.SIGTERM)
    slurm.signal_tasks(signal.SIGKILL)
    result = bench.end(process)
    assert result.code == 0 and slurm.requeued == 1, result
    assert "attempt 1: out of time, saved step" in result.err


def test_a_refused_requeue_is_reported(slurm):
    (slurm.state / "forbidden").touch()
    [result] = slurm.queue(*slurm.arguments("--gin.DIE=0:7:42,1:7:42"))
    assert result.code == 42 and "submit it again" in result.err, result


def test_the_header_asks_for_what_the_script_relies_on(slurm):
    head = slurm.script.read_text().split("set -euo")[0]
    for option in ("--signal=TERM@120", "--requeue", "--open-mode=append"):
        assert f"\n#SBATCH {option}\n" in head


def test_dry_run_can_be_pasted(slurm, bench, nasty):
    result = bench.run("slurm.sbatch", "r.gin", "--dry-run", "--", *nasty)
    assert result.code == 0 and "srun" in result.out and not bench.pids()
    bench.fake("srun", '#!/bin/sh\nprintf "%s\\0" "$@"\n')
    pasted = subprocess.run(
        ["bash", "-ec", result.out], cwd=bench.cwd, env=bench.environment, capture_output=True,
        check=True,
    ).stdout.decode()  # fmt: skip
    assert (bench.cwd / "slurm-JOB.state").is_dir()  # where each task writes its exit code
    assert pasted.split("\0")[:-1][-len(nasty) :] == nasty
    assert result.err.count("\n") == 1 and result.err.endswith(": scontrol requeue JOB\n")


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, "no RECIPE"),
        (["--frob", "r"], {}, "'--frob'"),
        (["r", "--dry-rnu"], {}, "did you mean --dry-run?"),
        (["r", "--time=1:00"], {}, "'--time'"),
        (["r"], {"SLURM_JOB_ID": ""}, "submit it with sbatch"),
        (["r"], {"SLURM_TASKS_PER_NODE": "4,3"}, "have 4,3 tasks"),
        (["r"], {"FREPO_PROGRAM": "no_such"}, "FREPO_PROGRAM is 'no_such'"),
        (["r"], {"SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_GPUS_ON_NODE": "8"}, "=8"),
        (["r"], {"SLURM_SUBMIT_DIR": "/nowhere", "FREPO_ROOT": "/neither"}, "set FREPO_ROOT"),
    ],
)
def test_wrong_input_is_one_line(slurm, bench, arguments, environment, words):
    result = bench.end(slurm.start(*arguments, **environment))
    assert result.code == 2 and result.err.count("\n") == 1 and words in result.err, result
    assert not list(Path(bench.cwd).iterdir())
