"""The account adds up, survives kills and damage, and reports lost time."""

import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.ops.badput import KINDS, recent, whole
from frepo_scale.ops.goodput import (
    CATEGORIES,
    FINISHED,
    PREEMPTED,
    Ledger,
    read_ledger,
)


class Clock:
    """A time of day and a timer that advance together."""

    def __init__(self, now=1_800_000_000.0):
        self.now = now

    def __call__(self):
        return self.now

    def ledger(self, folder):
        return Ledger(folder, clock=self, timer=self)


def the_last(folder):
    return read_ledger(folder).attempts[-1]


def test_a_run_of_three_attempts(tmp_path):
    clock = Clock()
    start = clock.now

    ledger = clock.ledger(tmp_path)  # finished nothing: killed 40 s after its save
    clock.now += 10
    ledger.begin(0, process_count=2, device_count=8, device_kind="TPU v5e")
    with ledger.during("compile"):
        clock.now += 20
    with ledger.during("step"):
        clock.now += 100
    with ledger.during("checkpoint"):
        clock.now += 2
        ledger.saving(50)
        ledger.committed()
    with ledger.during("step"):
        clock.now += 40
    ledger.tick()
    with ledger.during("step"):
        clock.now += 5  # after the last sign of life
    clock.now += 300

    ledger = clock.ledger(tmp_path)  # preempted
    ledger.begin(50)
    with ledger.during("step"):
        clock.now += 50
    ledger.saving(75)
    ledger.committed()
    clock.now += 1
    ledger.end(PREEMPTED)

    ledger = clock.ledger(tmp_path)
    ledger.begin(75)
    with ledger.during("step"):
        clock.now += 50
    ledger.saving(100)
    ledger.committed()
    with ledger.during("evaluation"):
        clock.now += 30
    totals = dict.fromkeys((*CATEGORIES, "lost"), 0) | {"start": 10, "compile": 20, "step": 240}
    totals |= {"checkpoint": 2, "other": 1, "evaluation": 30, "lost": 41}
    assert ledger.totals() == {f"seconds/{name}": seconds for name, seconds in totals.items()}
    ledger.end(FINISHED)

    history = read_ledger(tmp_path)
    assert [a.reason for a in history.attempts] == [None, "preempted", "finished"]
    assert [(a.first_step, a.last_step) for a in history.attempts] == [(0, 50), (50, 75), (75, 100)]
    first = history.attempts[0]
    assert first.ended is None and first.alive == start + 172 and first.device_kind == "TPU v5e"
    assert (first.process_count, first.device_count) == (2, 8)
    assert history.attempts[1].ended == history.attempts[1].started + 51

    account = whole(history)
    kept = {"start": 10, "compile": 20, "step": 200, "checkpoint": 2, "evaluation": 30}
    assert account == dict.fromkeys(KINDS, 0) | kept | {"lost": 41, "between": 305}
    assert sum(account.values()) == 172 + 305 + 51 + 80 and history.damaged == 0


def test_a_save_counts_once_it_is_committed(tmp_path):
    clock = Clock()
    ledger = clock.ledger(tmp_path)
    ledger.begin(0)
    with ledger.during("step"):
        clock.now += 10
        ledger.saving(5)
        clock.now += 20
        ledger.saving(7)  # waits for the save before, or fails
        clock.now += 40
    ledger.end("failed: the disk")
    found = the_last(tmp_path)
    assert (found.last_step, found.saved_seconds["step"]) == (5, 10)
    assert ledger.save_pending
    assert whole(read_ledger(tmp_path))["lost"] == 60


def test_the_last_hours_by_kind(tmp_path):
    clock = Clock(1_000_000.0)
    ledger = clock.ledger(tmp_path)
    ledger.begin(0)
    with ledger.during("step"):
        clock.now += 7200
        ledger.saving(5)
        ledger.committed()
        clock.now += 900
        ledger.tick()
    assert recent(read_ledger(tmp_path), 3600)["lost"] == 900  # the attempt was killed
    assert recent(read_ledger(tmp_path), 24 * 3600) is None  # shorter than that
    clock.now += 600
    ledger = clock.ledger(tmp_path)
    clock.now += 60
    ledger.begin(5)
    with ledger.during("step"):
        clock.now += 1140
    ledger.end(FINISHED)
    found = recent(read_ledger(tmp_path), 3600)
    expected = {"step": 900 + 1140, "lost": 900, "between": 600, "start": 60}
    assert found == pytest.approx(dict.fromkeys(KINDS, 0.0) | expected, abs=1.0)
    clock.now += 1  # an attempt of an earlier version has no slots
    ledger = clock.ledger(tmp_path)
    ledger.begin(9)
    record = json.loads((tmp_path / "attempt-0003.json").read_text())
    del record["recent"], record["seconds"]["start"], record["saved_seconds"]["restore"]
    (tmp_path / "attempt-0003.json").write_text(json.dumps(record))
    assert read_ledger(tmp_path).damaged == 0
    assert recent(read_ledger(tmp_path), 3600) is None


def test_the_file_keeps_about_a_day_of_slots(tmp_path):
    clock = Clock()
    ledger = clock.ledger(tmp_path)
    ledger.begin(0)
    with ledger.during("step"):
        clock.now += 10 * 86400
    ledger.end(FINISHED)
    found = the_last(tmp_path)
    assert 24 * 6 < len(found.recent) <= 151 and found.seconds["step"] == 10 * 86400
    day = recent(read_ledger(tmp_path), 86400)
    assert day["step"] == pytest.approx(86400, abs=1)


def test_an_inner_block_is_taken_from_the_outer(tmp_path):
    clock = Clock()
    ledger = clock.ledger(tmp_path)
    ledger.begin(0)
    with ledger.during("step"):
        clock.now += 1
        with ledger.during("probe"):
            clock.now += 2
            with pytest.raises(ZeroDivisionError), ledger.during("step"):
                clock.now += 4
                raise ZeroDivisionError
            clock.now += 8
        clock.now += 16
    clock.now += 32
    ledger.end("failed: it\n broke")
    found = the_last(tmp_path)
    assert (found.seconds["step"], found.seconds["probe"], found.seconds["other"]) == (21, 10, 32)
    assert found.reason == "failed: it broke"


PASSING = st.floats(0.0, 100.0)
WORK = st.recursive(
    st.one_of(PASSING, st.sampled_from(["save", "commit", "tick"])),
    lambda inner: st.tuples(st.sampled_from(CATEGORIES), st.lists(inner, max_size=4)),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.lists(WORK, max_size=6), st.booleans())
def test_categories_add_up_to_the_wall_time(tmp_path_factory, work, killed):
    folder = tmp_path_factory.mktemp("ledger")
    clock, expected = Clock(), dict.fromkeys(CATEGORIES, 0.0)
    ledger = clock.ledger(folder)
    ledger.begin(0)

    def do(parts, category):
        for part in parts:
            match part:
                case "save":
                    ledger.saving(1)
                case "commit":
                    ledger.committed()
                case "tick":
                    ledger.tick()
                case (inner, rest):
                    with ledger.during(inner):
                        do(rest, inner)
                case seconds:
                    clock.now += seconds
                    expected[category] += seconds

    do(work, "other")
    if not killed:
        ledger.end(FINISHED)
        assert the_last(folder).seconds == pytest.approx(expected, abs=1e-4)
    found = the_last(folder)
    assert sum(found.seconds.values()) == pytest.approx(found.alive - found.started, abs=1e-4)
    assert all(0 <= found.saved_seconds[c] <= found.seconds[c] for c in CATEGORIES)
    account = whole(read_ledger(folder))
    assert sum(account.values()) == pytest.approx(found.alive - found.started, abs=1e-4)
    assert all(seconds >= -1e-4 for seconds in account.values())
    in_slots = [sum(spent.get(c, 0.0) for spent in found.recent.values()) for c in CATEGORIES]
    assert in_slots == pytest.approx([found.seconds[c] for c in CATEGORIES], abs=0.1)
    os.unlink(folder / "attempt-0001.json")


@pytest.mark.parametrize("use", [Ledger.tick, lambda ledger: ledger.during("step").__enter__()])
def test_the_file_is_fresh_while_the_account_is_in_use(tmp_path, use):
    clock = Clock()
    ledger = clock.ledger(tmp_path)
    ledger.begin(0)
    alive = the_last(tmp_path).alive
    for _ in range(100):
        clock.now += 1
        use(ledger)
        if the_last(tmp_path).alive != alive:
            assert the_last(tmp_path).alive - alive == 30
            alive = the_last(tmp_path).alive
    assert clock.now - alive < 30


def test_a_clock_that_jumps_does_not_matter(tmp_path):
    clock, timer = Clock(), Clock(5.0)
    ledger = Ledger(tmp_path, clock=clock, timer=timer)
    ledger.begin(0)
    with ledger.during("step"):
        timer.now += 60
        clock.now -= 3600
    ledger.end(FINISHED)
    found = the_last(tmp_path)
    assert found.alive - found.started == 60 and found.seconds["step"] == 60


def test_damaged_files_are_counted_and_their_numbers_not_used_again(tmp_path):
    for text in ("", "{", "[]", "{}", "null"):
        Ledger(tmp_path).begin(0)
        newest = sorted(tmp_path.iterdir())[-1]
        newest.write_text(text)
    good = Ledger(tmp_path)
    good.begin(7)
    record = json.loads((tmp_path / "attempt-0006.json").read_text())
    for number, change in enumerate(
        (
            {"seconds": {}},
            {"alive": 0.0},
            {"seconds": dict.fromkeys(CATEGORIES, -1.0)},
            {"recent": {"x": {}}},
            {"recent": {"7": {"step": -1.0}}},
        ),
        start=7,
    ):
        (tmp_path / f"attempt-{number:04d}.json").write_text(json.dumps(record | change))
    (tmp_path / "notes.txt").write_text("theirs")
    history = read_ledger(tmp_path)
    assert history.damaged == 10 and [a.first_step for a in history.attempts] == [7]
    Ledger(tmp_path).begin(8)
    assert (tmp_path / "attempt-0012.json").exists()


def test_a_missing_folder_is_an_empty_account(tmp_path):
    history = read_ledger(tmp_path / "none")
    assert history.attempts == () and not any(whole(history).values())


def test_attempts_that_seem_to_overlap(tmp_path):
    for start in (1000.0, 500.0):  # the second machine's clock is behind
        clock = Clock(start)
        ledger = clock.ledger(tmp_path)
        ledger.begin(0)
        with ledger.during("step"):
            clock.now += 600.0
        ledger.end(FINISHED)
    account = whole(read_ledger(tmp_path))
    assert account == dict.fromkeys(KINDS, 0) | {"step": 1200}


def test_no_folder_no_account(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(None)
    ledger.begin(0)
    with ledger.during("step"):
        ledger.saving(1)
        ledger.committed()
    ledger.end(FINISHED)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_category_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="'steps'"), Ledger(None).during("steps"):
        pass


def test_a_disk_that_fails_does_not_end_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "ledger")
    ledger.begin(0)
    ledger.saving(3)
    ledger.committed()
    ledger.end(FINISHED)


def test_the_ledger_is_fast(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(0)
    before = time.perf_counter()
    for _ in range(10_000):
        with ledger.during("step"):
            pass
    assert time.perf_counter() - before < 1.0  # 0.1 ms each; about 3 us on an idle core
