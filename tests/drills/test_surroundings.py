"""Full and read-only disks, a clock that jumps, a second launch, two versions of the code."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from drills.setting import (
    attempts,
    log,
    losses,
    more_rows,
    own_modules_first,
    rows,
    said,
    saved,
    unlike,
)

import frepo_scale
from frepo_scale.core.versions import code_fingerprint
from frepo_scale.ops.goodput import read_ledger

pytestmark = pytest.mark.slow


def failed_with_one_line(attempt, *words):
    """It ends with 1 or 2 and one line that contains one of the words; checkpoints stay."""
    workdir = attempt.workdir
    (code,) = attempt.codes(120)
    assert code in (1, 2), log(attempt)
    assert "Traceback" not in log(attempt), log(attempt)
    (line,) = said(attempt)
    assert any(word in line for word in words), line
    assert str(workdir) in line
    assert saved(workdir) and losses(workdir)
    assert attempts(workdir)[-1].last_step <= saved(workdir)[-1]  # not the step of the failed save
    return line


def test_a_disk_that_fills_up(start, undisturbed, disk):
    workdir, ballast = disk, disk / "ballast"
    attempt = start(workdir)
    assert attempt.wait_for(lambda: len(saved(workdir)) == 2)
    with ballast.open("ab", buffering=0) as file:
        while attempt.running:  # the run frees space when it removes a checkpoint
            try:
                file.write(bytes(4096))
            except OSError:
                time.sleep(0.001)
    failed_with_one_line(attempt, "No space left")
    ballast.unlink()
    attempt = start(workdir)
    assert attempt.codes(200) == [0], log(attempt)
    assert unlike(undisturbed, workdir) == []


def test_a_workdir_that_becomes_read_only(start, undisturbed, disk):
    workdir = disk
    attempt = start(workdir)
    assert attempt.wait_for(lambda: len(saved(workdir)) == 2)
    # A disk with files open for writing cannot be remounted read-only; a bind mount over it can.
    # Open files stay writable, as on a file server after a change of permissions.
    mount = ["mount", "--bind", str(workdir), str(workdir)]
    subprocess.run(mount, check=True)
    try:
        remount = ["mount", "-o", "remount,bind,ro", str(workdir)]
        # It fails while the run has a file open that it opened after the bind mount.
        assert attempt.wait_for(lambda: not subprocess.run(remount).returncode)
        failed_with_one_line(attempt, "Read-only file system")
        before = saved(workdir)
        again = start(workdir)
        assert again.codes(120) == [2]
        assert "(Read-only file system)" in said(again)[-1]
        assert saved(workdir) == before and "Traceback" not in log(again)
    finally:
        subprocess.run(["umount", "--lazy", str(workdir)], check=True)
    attempt = start(workdir)
    assert attempt.codes(200) == [0], log(attempt)
    assert unlike(undisturbed, workdir) == []


CLOCK = """
import os, time
_real, _real_ns = time.time, time.time_ns
_back = lambda: 3600 * os.path.exists(os.environ["CLOCK_JUMPS"])
time.time = lambda: _real() - _back()
time.time_ns = lambda: _real_ns() - 10**9 * _back()
"""


def test_a_clock_that_jumps_back_an_hour(start, undisturbed, tmp_path):
    """Saves are timed, every few milliseconds: none may wait for an hour."""
    workdir, jump = tmp_path / "run", tmp_path / "jump"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(CLOCK)
    environment = own_modules_first(tmp_path / "modules") | {"CLOCK_JUMPS": str(jump)}
    settings = {"SAVE_EVERY": 1000, "SAVE_MINUTES": 1e-4}

    attempt = start(workdir, environment=environment, settings=settings)
    assert attempt.wait_for(more_rows(workdir, 5))
    jump.touch()
    at = rows(workdir)[-1]["step"]
    assert attempt.wait_for(lambda: saved(workdir)[-1:] > [at + 2])
    attempt.processes[0].terminate()
    assert attempt.codes(120) == [42], log(attempt)

    # By its clock the next attempt starts before the first one.
    attempt = start(workdir, environment=environment, settings=settings)
    assert attempt.codes(200) == [0], log(attempt)
    assert unlike(undisturbed, workdir) == ["meta"]  # the recipe's text, with SAVE_EVERY
    first, second = attempts(workdir)
    assert second.started < first.started
    assert read_ledger(workdir / "attempts").damaged == 0
    assert all(0 <= row["goodput"] <= 1 for row in rows(workdir) if "goodput" in row)


def test_two_launches_at_once(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    both = [start(workdir), start(workdir)]
    codes = sorted(code for attempt in both for code in attempt.codes(200))
    assert codes == [0, 2], log(both[0])
    # They share the file, so the message may follow an unfinished line of the other one.
    assert log(both[0]).count(f"frepo-scale: workdir {workdir} is in use by process") == 1
    assert unlike(undisturbed, workdir) == []
    assert len(attempts(workdir)) == 1


# Process 1 imports the package of another folder, as if one machine had missed an update.
UPDATED = ["bash", "-c", '((FREPO_PROCESS)) && cd "$0"; exec "$@"']


def test_two_processes_with_different_code(start, tmp_path):
    package = Path(frepo_scale.__file__).parent
    shutil.copytree(package, tmp_path / "other" / package.name)
    with (tmp_path / "other" / package.name / "core" / "types.py").open("a") as file:
        file.write("# changed\n")
    attempt = start(tmp_path / "run", 2, through=[*UPDATED, str(tmp_path / "other")])
    assert attempt.codes(120) == [2, 2], log(attempt)
    line = said(attempt)[-1]
    assert "process 1 on " in line and f"and {code_fingerprint()!r} in process 0" in line
    assert not (tmp_path / "run").exists() and "Traceback" not in log(attempt)
