"""SIGKILL in the middle of a save, a probe and the final evaluation."""

import json
import os
import random
import re
import signal
import time

import pytest
from drills.setting import STEPS, SUPERVISE, attempts, log, losses, rows, unlike, wait_until

pytestmark = pytest.mark.slow


def owner(workdir):
    try:
        return json.loads((workdir / "lock.json").read_bytes())["pid"]
    except (OSError, ValueError):  # not there yet
        return None


def saving(workdir, seen):
    """Whether a checkpoint that is none of those in `seen` is half written."""
    return set((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")) - seen


def probing(workdir):
    """Whether the last picture is of a probe without a result, later than the start."""
    pictures = [int(path.stem.removeprefix("step_")) for path in workdir.glob("gallery/*.png")]
    done = [row["step"] for row in rows(workdir) if "probe_accuracy" in row]
    return max(pictures, default=0) > max(done, default=0)


def evaluating(workdir):
    return (workdir / "evaluation_progress.json").exists() and not (workdir / "DONE").exists()


def kill_when(attempt, moment, killed):
    """Kills the run once `moment` has come; it is halted and looked at again, to be sure."""
    workdir, rng = attempt.workdir, random.Random(len(killed))
    while True:
        wait_until(lambda: not attempt.running or (owner(workdir) not in {None, *killed}))
        wait_until(lambda: not attempt.running or moment())
        assert attempt.running, log(attempt)
        time.sleep(rng.uniform(0.0, 0.01))
        process = owner(workdir)
        os.kill(process, signal.SIGSTOP)
        if moment():
            os.kill(process, signal.SIGKILL)
            killed.append(process)
            return
        os.kill(process, signal.SIGCONT)


def test_killed_three_times_and_restarted_by_the_supervisor(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    supervisor = ["bash", str(SUPERVISE), "--pause", "0", "--"]
    attempt = start(workdir, through=supervisor)
    killed = []
    kill_when(attempt, lambda: saving(workdir, set()), killed)
    kill_when(attempt, lambda: probing(workdir), killed)
    kill_when(attempt, lambda: evaluating(workdir), killed)
    assert attempt.codes(200) == [0], log(attempt)
    codes = re.findall(r"^frepo_scale: attempt \d: code (\d+)", log(attempt), re.MULTILINE)
    assert codes == ["137", "137", "137", "0"]
    assert unlike(undisturbed, workdir) == []
    history = attempts(workdir)
    assert [a.reason for a in history] == [None, None, None, "finished"]
    assert history[-1].first_step == STEPS  # only what was left of the evaluation
    assert not list(workdir.rglob("*orbax-checkpoint-tmp*"))
    assert not list(workdir.rglob(".partial-*")) and len(losses(workdir)) == STEPS
