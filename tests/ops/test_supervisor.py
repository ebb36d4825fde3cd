import signal
import threading

import pytest

from frepo_scale.jobs import distill
from frepo_scale.main import main
from frepo_scale.ops.supervisor import Supervisor
from frepo_scale.ops.workdir import Workdir


def watched():
    return "watchdog" in [thread.name for thread in threading.enumerate()]


def test_silence_may_be_long_until_the_work_starts(tmp_path):
    (tmp_path / "attempts").mkdir()
    with Supervisor(Workdir(tmp_path), 15.0) as supervisor:
        assert supervisor._watchdog.limit() == 3600.0
        supervisor.begin(0)
        assert supervisor._watchdog.limit() == 900.0
        with supervisor.compiling():
            assert supervisor._watchdog.limit() == 3600.0
    assert not watched() and signal.alarm(0) == 0


def test_nothing_is_watched_without_a_limit(tmp_path):
    with Supervisor(Workdir(tmp_path), 0.0) as supervisor:
        assert not watched()
        supervisor.begin(0)


def test_a_run_is_watched_while_it_reads_its_data(tmp_path, monkeypatch):
    def build_run(recipe):
        assert watched()
        raise StopIteration

    monkeypatch.setattr(distill, "build_run", build_run)
    with pytest.raises(StopIteration):
        main(["distill", "digits_ipc1.gin", "--workdir", str(tmp_path / "run")])
    assert not watched()


def test_the_lock_removes_files_that_killed_attempts_left_half_written(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.ledger.mkdir()
    for folder in (tmp_path, workdir.ledger):
        (folder / ".partial-x.json-0").write_text("{")
    # Of another process, which is taking the lock.
    others = tmp_path / f".partial-{workdir.lock.name}-0"
    others.write_text("{")
    with Supervisor(workdir, 0.0) as supervisor:
        supervisor.lock()
        assert list(tmp_path.rglob(".partial-*")) == [others]


def test_every_poll_of_a_run_is_a_heartbeat(tmp_path, monkeypatch):
    polled = []

    class Recorded:
        def __init__(self, on_poll):
            polled.append(on_poll)

        def install(self):
            raise StopIteration

    monkeypatch.setattr(distill, "Preemption", Recorded)
    with pytest.raises(StopIteration):
        main(["distill", "digits_ipc1", "--workdir", str(tmp_path / "run")])
    assert [found.__func__ for found in polled] == [Supervisor.heartbeat]
