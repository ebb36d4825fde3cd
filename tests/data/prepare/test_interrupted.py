"""Preparing that is stopped, killed, resumed, or done twice at once gives the same bytes."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import UNFINISHED
from frepo_scale.data.prepare import finish, fit, job, output, shards
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.records import PreparedSet
from frepo_scale.ops.preemption import Preempted, Preemption


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 9}, "resolution was 8 and is now 9"),
        ({"fit": "squash"}, "fit was 'crop'"),
        ({"filter": "lanczos"}, "filter was 'area'"),
        ({"name": "other"}, "name was 'photos'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(source, tmp_path, run, changes, message, finished, monkeypatch):
    if finished:
        run(source, tmp_path / "out")
    else:
        stop_after(monkeypatch, 1)
        with pytest.raises(Preempted):
            run(source, tmp_path / "out")
        monkeypatch.undo()
    with pytest.raises(InputError, match=f"other settings: .*{message}"):
        run(source, tmp_path / "out", **changes)


def stop_after(monkeypatch, count):
    """Requests a stop once this many shards are made."""
    real, done = job.make_shard, []

    def make(task, report):
        if len(done) == count:
            raise Preempted
        done.append(task)
        return real(task, report)

    monkeypatch.setattr(job, "make_shard", make)


@pytest.mark.parametrize("count", [0, 1, 4, 8])
def test_a_stopped_command_resumes_to_the_same_bytes(
    small, source, tmp_path, run, monkeypatch, count
):
    whole = run(source, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Preempted):
            run(source, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    with pytest.raises(InputError, match="is not finished"):
        PreparedSet.open(tmp_path / "out")
    finished = sorted((tmp_path / "out").glob("*.array_record"))
    assert len(finished) == count
    for path in finished[:1]:
        path.write_bytes(path.read_bytes()[:-1])  # damaged after it was written
    stamps = {path: path.stat().st_mtime_ns for path in finished[1:]}
    assert run(source, tmp_path / "out") == whole
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


def test_a_stop_while_the_whitening_is_fitted(source, tmp_path, run, monkeypatch):
    """Also one between its file and the description: it is not fitted again."""
    whole = run(source, tmp_path / "whole")

    def stopped(*arguments):
        raise Preempted

    for name in ("fit_whitening", "write_description"):
        with monkeypatch.context() as patch:
            patch.setattr(finish, name, stopped)
            with pytest.raises(Preempted):
                run(source, tmp_path / "out")
        assert not (tmp_path / "out" / "dataset.json").exists()
    monkeypatch.setattr(fit, "moments_preprocessing", None)  # calling it would be a TypeError
    assert run(source, tmp_path / "out") == whole


@pytest.mark.parametrize("where", ["shard", "moments", "whitening"])
def test_a_full_disk_keeps_what_is_finished(small, source, tmp_path, run, monkeypatch, where):
    whole = run(source, tmp_path / "whole")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        if where == "shard":
            real, calls = shards._write, []

            def write(path, labels, pixels):
                calls.append(path)
                if len(calls) == 3:
                    path.write_bytes(b"half")
                    raise OSError("write() failed: No space left on device; writing x")
                real(path, labels, pixels)

            patch.setattr(shards, "_write", write)
        else:
            real_save = np.savez

            def save(file, **arrays):
                if {"moments": "products", "whitening": "whitening_matrix"}[where] in arrays:
                    raise full
                real_save(file, **arrays)

            patch.setattr(np, "savez", save)
        with pytest.raises(InputError, match=r"disk of .* is full .*finished parts are on disk"):
            run(source, tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".partial-*"))
    assert len(list((tmp_path / "out").glob("*.array_record"))) == (2 if where == "shard" else 10)
    assert run(source, tmp_path / "out") == whole


def test_two_at_once(source, tmp_path, run):
    ours = output.OutputFolder(tmp_path / "out")
    ours.begin()
    with pytest.raises(InputError, match=rf"being prepared by process {os.getpid()} on"):
        run(source, tmp_path / "out")
    ours.release()  # as the kernel does when the process ends
    run(source, tmp_path / "out")


def command(source, out, *more):
    code = "import sys; from frepo_scale.data.prepare import shards; shards._SMALLEST_SHARD = 10\n"
    code += "from frepo_scale.main import entry; sys.argv[0] = 'frepo-scale'; entry()"
    arguments = ["prepare", "--source", source, "--out", out, "--resolution", "16", *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle(tmp_path, images, number, small, run):
    """The whole process group is killed, as batch systems do; the same command resumes."""
    source = images.write(tmp_path / "photos", images.pictures(0, 0))
    large = [images.encoded(colour, size=(1600, 1200)) for colour in (7, 8)]
    for row in range(80):
        images.write(source, {f"train/{'ab'[row % 2]}/{row}.JPEG": large[row % 2] + bytes([row])})
    whole = run(source, tmp_path / "whole", resolution=16)
    job = command(source, tmp_path / "out", "--workers", "2")
    end = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("*.array_record"))) < 2:
        assert job.poll() is None, job.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(job.pid, number)
    out, err = job.communicate(timeout=60)
    assert job.returncode == (42 if number == signal.SIGTERM else -number), err
    if number == signal.SIGTERM:
        assert "the same command resumes" in out
    made = list((tmp_path / "out").glob("*.array_record"))
    assert made and not (tmp_path / "out" / "dataset.json").exists()
    again = command(source, tmp_path / "out", "--workers", "2")
    assert again.communicate(timeout=120)[1] is not None and again.returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path, images, source):
    job = command(source, tmp_path / "out", "--workers", "2")
    while job.poll() is None and not list((tmp_path / "out").glob("*.array_record")):
        time.sleep(0.02)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    job.kill()
    job.communicate()
    end = time.monotonic() + 30
    while any(Path(f"/proc/{child}/stat").exists() for child in children):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.1)


def test_stop_is_checked_between_tasks(source, tmp_path):
    preemption = Preemption()
    preemption._signal = signal.SIGTERM
    with pytest.raises(Preempted):
        prepare(PrepareConfig(source, tmp_path / "out", 8, workers=1), preemption)


@pytest.mark.parametrize("begun", [False, True])
def test_a_set_that_another_process_finished_in_between(source, tmp_path, run, monkeypatch, begun):
    """Between the first check and the lock: the set must not be made again."""
    want = run(source, tmp_path / "whole")
    out = tmp_path / "out"
    real = output.OutputFolder.begin

    def begin(self):
        with monkeypatch.context() as patch:
            patch.setattr(output.OutputFolder, "begin", real)
            (out / UNFINISHED / "lock").unlink(missing_ok=True)
            run(source, out)
        real(self)

    if begun:
        (out / UNFINISHED).mkdir(parents=True)
    monkeypatch.setattr(output.OutputFolder, "begin", begin)
    with pytest.raises(InputError, match="other settings"):
        run(source, out, fit="squash")
    monkeypatch.undo()
    assert run(source, out) == want


def test_out_may_be_inside_the_source(small, source, tmp_path, run, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Preempted):
            run(source, source / "records")
    files = run(source, source / "records")
    assert run(source, source / "records") == files


def test_leftovers_of_stopped_workers_are_removed(source, tmp_path, run, monkeypatch):
    def make(task, report):
        (task.shard.parent / ".partial-x").write_bytes(b"half")
        raise Preempted

    monkeypatch.setattr(job, "make_shard", make)
    with pytest.raises(Preempted):
        run(source, tmp_path / "out")
    assert not list(tmp_path.rglob(".partial-*"))
