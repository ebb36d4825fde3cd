"""Runs that resume on other devices, that diverge, and that are complete."""

import os
import re
import signal

import numpy as np
import pytest
from drills.setting import (
    STEPS,
    SUPERVISE,
    files,
    log,
    losses,
    said,
    saved,
)

pytestmark = pytest.mark.slow
QUICK = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}  # compiled as in the other tests


def test_the_same_run_on_fewer_and_fewer_devices(start, undisturbed, tmp_path):
    """2 processes x 4 devices, 1 x 8, 1 x 1; bits differ by the devices anyway."""
    workdir = tmp_path / "run"
    begins = []
    for processes, devices in ((2, 4), (1, 8)):
        # Every step is saved: otherwise the run may finish before it acts on the signal.
        attempt = start(workdir, processes, devices, settings={"SAVE_EVERY": 1}, environment=QUICK)
        # Before that it would leave at once, without a step.
        assert attempt.wait_for(lambda: saved(workdir)[-1:] > begins[-1:])
        attempt.processes[-1].send_signal(signal.SIGTERM)
        assert attempt.codes(120) == [42] * processes, log(attempt)
        begins.append(saved(workdir)[-1])
    assert 0 < begins[0] < begins[1] < STEPS
    attempt = start(workdir)
    assert attempt.codes(200) == [0], log(attempt)
    assert re.findall(r"^resuming .* at step (\d+)", log(attempt), re.M) == list(map(str, begins))
    mine, theirs = losses(workdir), losses(undisturbed)
    assert list(mine) == list(theirs) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([*mine.values()], [*theirs.values()], rtol=1e-3)


def test_a_run_that_learns_nothing_is_given_up(start, tmp_path):
    rng = np.random.default_rng(0)
    parts = {}
    for part, each in (("train", 100), ("test", 10)):
        labels = np.repeat(np.arange(10), each)
        parts[f"y_{part}"] = labels
        parts[f"x_{part}"] = rng.integers(0, 256, (len(labels), 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "noise.npz", **parts)
    workdir = tmp_path / "run"
    settings = {"DATASET": "npz", "DATA_DIR": tmp_path / "noise.npz", "CHANCE_PROBES": 2}
    supervisor = ["bash", str(SUPERVISE), "--pause", "0", "--"]
    attempt = start(workdir, settings=settings, through=supervisor)
    assert attempt.codes(120) == [1], log(attempt)
    assert log(attempt).count("frepo_scale: attempt") == 1  # not restarted
    (line,) = said(attempt)
    good = workdir / "checkpoints" / str(saved(workdir)[-1])
    for words in ("at step 15", f"the last good checkpoint is {good}", "--gin.RIDGE",
                  "--gin.LEARNING_RATE", "--gin.CHANCE_PROBES"):  # fmt: skip
        assert words in line
    assert "Traceback" not in log(attempt) and not (workdir / "DONE").exists()

    attempt = start(workdir, settings=settings | {"CHANCE_PROBES": 0})
    assert attempt.codes(200) == [0], log(attempt)
    assert f"resuming {workdir} at step {good.name}" in log(attempt)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_finished_run_is_left_alone(start, streamed, processes, request):
    workdir = request.getfixturevalue({1: "undisturbed", 2: "undisturbed_two"}[processes])
    before = files(workdir)
    attempt = start(workdir, processes, settings=streamed if processes == 2 else {})
    assert attempt.codes(200) == [0] * processes, log(attempt)
    assert "digits_ipc1 is finished" in log(attempt)
    assert files(workdir) == before
