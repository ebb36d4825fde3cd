"""A signal between a save and the next poll: Orbax polls JAX too, and must not set the number."""

import signal
from pathlib import Path

import pytest
from processes import free_address, start

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("save_then_stop_run.py")


def test_the_signal_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("FREPO_COORDINATOR", free_address())
    monkeypatch.setenv("FREPO_PROCESSES", "2")
    monkeypatch.setenv("FREPO_HEARTBEAT", "20")
    processes = []
    try:
        for own in "01":
            monkeypatch.setenv("FREPO_PROCESS", own)
            processes.append(start(PROGRAM, tmp_path, devices=1))
        for process in processes:
            assert "READY\n" in iter(process.stdout.readline, "")
        processes[1].send_signal(signal.SIGTERM)
        (tmp_path / "signalled").touch()
        found = [process.communicate(timeout=240) for process in processes]
        assert [process.returncode for process in processes] == [42, 42], found
    finally:
        for process in processes:
            process.kill()
            process.communicate()
