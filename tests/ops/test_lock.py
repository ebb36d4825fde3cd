"""One live owner at a time; a dead one is replaced, at once on the same machine."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.ops import lock as module
from frepo_scale.ops.lock import WorkdirLock

PROGRAM = Path(__file__).with_name("lock_run.py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "lock.json"


@pytest.fixture
def own(path):
    """Makes owners of this process that renew by hand; they end with the test."""
    made = []

    def make(**settings):
        made.append(WorkdirLock(path, renew_every=1e6, **({"sleep": lambda s: None} | settings)))
        return made[-1]

    yield make
    for owner in made:
        owner.release()


def change(path, **values):
    """Writes the record of another machine."""
    path.parent.mkdir(exist_ok=True)
    there = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(there | values))


def test_an_absent_record_is_written_and_released(own, path):
    owner = own()
    owner.acquire()
    record = json.loads(path.read_text())
    assert record["pid"] == os.getpid() and record["renewed"] >= record["started"] > 1.7e9
    owner.acquire()  # ours already
    owner.check()
    owner.release()
    assert os.listdir(path.parent) == []
    owner.release()


def test_a_live_owner_on_this_machine_is_named(own, path):
    own().acquire()
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        own().acquire()
    text = str(caught.value)
    assert str(path.parent) in text and f"process {os.getpid()} on " in text and "UTC" in text
    assert f"`kill {os.getpid()}`" in text and "--workdir" in text
    assert path.read_bytes() == before


@pytest.mark.parametrize("kubernetes", [True, False])
def test_the_hint_to_stop_an_owner_works_where_it_is(own, path, monkeypatch, kubernetes):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if kubernetes:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    own().acquire()
    with pytest.raises(InputError) as caught:
        own().acquire()
    assert ("JobSet" in caught.value.fix) == kubernetes  # a process ID says nothing outside its pod
    assert ("kill " in caught.value.fix) != kubernetes


def test_holder_tells_who_holds_a_lock_and_whether_it_lives(own, path):
    assert module.holder(path) == ({}, False)
    owner = own()
    owner.acquire()
    record, lives = module.holder(path)
    assert record["pid"] == os.getpid() and lives is True
    change(path, process_start=1)
    assert module.holder(path)[1] is False
    change(path, machine="another")
    assert module.holder(path)[1] is None


def test_a_reused_process_id_is_not_the_owner(own, path):
    own().acquire()
    change(path, token="theirs", process_start=1)
    own(sleep=lambda seconds: seconds > 1 and pytest.fail("waited")).acquire()


@pytest.mark.parametrize("pid", [2**22 + 1, None, "x"])
def test_a_dead_owner_on_this_machine_is_replaced_at_once(own, path, pid):
    own().acquire()
    change(path, token="theirs", pid=pid)
    waits = []
    own(sleep=waits.append).acquire()
    assert len(waits) == 1  # to check that no other process took it


def test_a_zombie_is_dead(own, path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert module._process_start(child.pid) is None
        assert Path(f"/proc/{child.pid}/stat").exists()


def elsewhere(path, **values):
    change(path, host="node-7", machine="node-7 another boot", pid=12, token="theirs", **values)


def test_a_silent_owner_on_another_machine_is_replaced_after_the_wait(own, path, capsys):
    elsewhere(path, renewed=5.0)
    waits = []
    owner = own(sleep=waits.append, takeover_after=90.0)
    owner.acquire()
    assert 90 <= sum(waits) < 93
    err = capsys.readouterr().err
    assert "process 12 on node-7" in err and "90 s" in err
    assert json.loads(path.read_text())["token"] == owner._token


@pytest.mark.parametrize("beats", [lambda n: 2e9 + 30 * n, lambda n: 2e9 - 3600, lambda n: 7.0])
def test_a_live_owner_on_another_machine_is_kept_for_any_clock(own, path, beats):
    """Its clock runs, jumps back an hour or stops; ours differs by years."""
    elsewhere(path, renewed=2e9, renewals=1)
    waited = 0.0

    def sleep(seconds):
        nonlocal waited
        waited += seconds
        if waited % 30 == 29:
            elsewhere(path, renewed=beats(waited // 30), renewals=2 + waited // 30)

    with pytest.raises(InputError, match="process 12 on node-7"):
        own(sleep=sleep, clock=lambda: 0.0).acquire()
    assert waited == 29


def test_an_owner_on_another_machine_that_ends_during_the_wait_releases_the_lock(own, path):
    elsewhere(path)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            path.unlink()

    own(sleep=sleep).acquire()
    assert len(waits) == 4


def test_clocks_that_jump_back_take_nothing_over(own, path):
    """The content changes at every renewal, although its time decreases."""
    now = [1.8e9]
    owner = own(clock=lambda: now[0])
    owner.acquire()
    seen = {path.read_bytes()}
    for jump in (-3600.0, 0.0, 3600.0):
        now[0] += jump
        owner.renew()
        seen.add(path.read_bytes())
    assert len(seen) == 4
    owner.check()
    with pytest.raises(InputError):
        own(clock=lambda: now[0] + 1e6).acquire()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"started": "x", "pid": [1]}', b"\xff"])
def test_an_invalid_record_is_replaced_after_the_wait(own, path, text):
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    waits = []
    own(sleep=waits.append).acquire()
    assert sum(waits) >= 90


def test_a_record_that_cannot_be_read_is_refused(own, path):
    path.mkdir(parents=True)
    with pytest.raises(InputError, match=r"lock\.json"):
        own().acquire()


def test_another_record_after_the_wait_means_the_lock_is_not_taken(own, path):
    def sleep(seconds):
        assert seconds >= 0.25
        elsewhere(path)

    with pytest.raises(InputError, match="process 12 on node-7"):
        own(sleep=sleep).acquire()
    assert json.loads(path.read_text())["token"] == "theirs"


def test_the_wait_is_longer_for_a_slow_store(own, monkeypatch):
    now, waits = [0.0], []

    def slow(self, expected):
        now[0] += 0.4
        return True

    monkeypatch.setattr(WorkdirLock, "_replace", slow)
    with pytest.raises(InputError):
        own(sleep=waits.append, timer=lambda: now[0]).acquire()
    assert waits == [pytest.approx(4.0)]


def test_a_record_that_changes_between_reading_and_writing_is_read_again(own, path, monkeypatch):
    original, owner = WorkdirLock._replace, own()

    def late(self, expected):
        if self is owner and expected is None:
            own().acquire()  # another one of this live process
        return original(self, expected)

    monkeypatch.setattr(WorkdirLock, "_replace", late)
    with pytest.raises(InputError, match=f"process {os.getpid()} on"):
        owner.acquire()
    assert os.listdir(path.parent) == ["lock.json"]


def test_an_owner_that_was_replaced_notices_and_stops(own, path):
    owner = own()
    owner.acquire()
    elsewhere(path)
    before = path.read_bytes()
    owner.check()  # not yet
    owner.renew()
    with pytest.raises(RunError, match=re.escape(str(path.parent))):
        owner.check()
    owner.renew()
    owner.release()
    assert path.read_bytes() == before


def test_a_suspended_owner_reads_the_lock_before_it_continues(own, path):
    now = [0.0]
    owner = own(timer=lambda: now[0])
    owner.acquire()
    now[0] += 1000.0
    owner.check()
    elsewhere(path)
    now[0] += 89.0
    owner.check()
    now[0] += 2.0
    with pytest.raises(RunError):
        owner.check()


def test_a_record_that_vanished_is_written_again(own, path):
    owner = own()
    owner.acquire()
    path.unlink()
    owner.renew()
    assert json.loads(path.read_text())["token"] == owner._token
    owner.check()


def test_a_store_that_fails_for_a_while_does_not_end_the_run(own, path):
    owner = own()
    owner.acquire()
    path.unlink()
    path.mkdir()
    owner.renew()
    path.rmdir()
    owner.renew()
    assert path.is_file()
    owner.check()


def test_the_thread_renews(path):
    owner = WorkdirLock(path, renew_every=0.02)
    owner.acquire()
    deadline = threading.Event()
    for _ in range(500):
        if json.loads(path.read_text())["renewals"] > 3:
            break
        deadline.wait(0.02)
    assert json.loads(path.read_text())["renewals"] > 3
    owner.release()
    assert not path.exists()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=15))
def test_a_process_name_may_contain_any_characters(name):
    """The line of /proc is read from its last parenthesis on."""
    line = f"12 ({name}) S " + " ".join(str(n) for n in range(4, 53))
    assert module._start_in(line) == 22


@pytest.fixture
def runs():
    """Starts the program; no process is left behind."""
    started = []

    def begin(path, count):
        for _ in range(count):
            started.append(
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for process in started[-count:]:
            assert process.stdout.readline() == "READY\n"
        return started[-count:]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def say(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.slow
def test_of_several_simultaneous_launches_exactly_one_gets_the_lock(runs, path):
    for turn in range(10):
        processes = runs(path, 3)
        for process in processes:
            say(process)
        answers = [process.stdout.readline() for process in processes]
        assert sorted(a.split()[0] for a in answers) == ["OWNER", "REFUSED", "REFUSED"], answers
        (winner,) = [p for p, a in zip(processes, answers, strict=True) if "OWNER" in a]
        assert json.loads(path.read_text())["pid"] == winner.pid
        for process in processes:
            if process is not winner:
                assert process.wait(timeout=120) == 0
        if turn % 2:
            winner.kill()  # the next ones find a dead owner, not reaped yet
        else:
            say(winner)
            assert winner.wait(timeout=120) == 0 and not path.exists()


@pytest.mark.slow
def test_a_killed_owner_is_replaced_at_once(runs, path):
    first, second, third = runs(path, 3)
    say(first)
    assert first.stdout.readline() == "OWNER\n"
    say(second)
    refusal = second.stdout.readline()
    assert refusal.startswith("REFUSED") and f"process {first.pid} on" in refusal
    first.send_signal(signal.SIGKILL)
    first.wait()
    say(third)
    assert third.stdout.readline() == "OWNER\n"
