"""A checkpoint that one of two processes cannot read is skipped by both."""

from pathlib import Path

import pytest
from processes import finished, free_address, start

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("restore_run.py")


def test_damage_that_one_process_sees(tmp_path, monkeypatch):
    monkeypatch.setenv("FREPO_COORDINATOR", free_address())
    monkeypatch.setenv("FREPO_PROCESSES", "2")
    monkeypatch.setenv("FREPO_HEARTBEAT", "20")
    processes = []
    for own in "01":
        monkeypatch.setenv("FREPO_PROCESS", own)
        processes.append(start(PROGRAM, tmp_path, devices=1))
    lines = []
    for process in processes:
        said = finished(process).splitlines()
        lines += [line for line in said if line.startswith("FOUND")]
    damaged = f"checkpoint {tmp_path / '20'} is damaged:"
    assert lines == [
        f"FOUND 10 {{'saved': 10}} [10.0] {damaged} another process cannot read it",
        f"FOUND 10 {{'saved': 10}} [14.0] {damaged} a bad block",
    ]
