import contextlib
import signal
import threading

import pytest

from frepo_scale import run
from frepo_scale.jobs.supervision import Supervision
from frepo_scale.main import main
from frepo_scale.ops.workdir import Workdir


def watched():
    return "watchdog" in [thread.name for thread in threading.enumerate()]


def test_silence_may_be_long_until_the_work_starts(tmp_path):
    (tmp_path / "attempts").mkdir()
    supervision = Supervision(Workdir(tmp_path), 15.0)
    with contextlib.closing(supervision):
        supervision.watch()
        assert supervision._watchdog.limit() == 3600.0
        supervision.begin(0)
        assert supervision._watchdog.limit() == 900.0
        with supervision.compiling():
            assert supervision._watchdog.limit() == 3600.0
    assert not watched() and signal.alarm(0) == 0


def test_nothing_is_watched_without_a_limit(tmp_path):
    with contextlib.closing(Supervision(Workdir(tmp_path), 0.0)) as supervision:
        supervision.watch()
        assert not watched()
        supervision.begin(0)


def test_a_run_is_watched_while_it_reads_its_data(tmp_path, monkeypatch):
    def parts(config):
        assert watched()
        raise StopIteration

    monkeypatch.setattr(run, "Parts", parts)
    with pytest.raises(StopIteration):
        main(["distill", "digits_ipc1.gin", "--workdir", str(tmp_path / "run")])
    assert not watched()
