"""The account adds up, survives kills and damage, and reports lost time."""

import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.ops.goodput import (
    CATEGORIES,
    FINISHED,
    PREEMPTED,
    Ledger,
    read_ledger,
    summary,
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
        ledger.saved(50)
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
    ledger.saved(75)
    clock.now += 1
    ledger.end(PREEMPTED)

    ledger = clock.ledger(tmp_path)
    ledger.begin(75)
    with ledger.during("step"):
        clock.now += 50
    ledger.saved(100)
    with ledger.during("evaluation"):
        clock.now += 30
    totals = {"compile": 20, "data": 0, "step": 240, "probe": 0, "checkpoint": 2, "other": 11}
    totals |= {"evaluation": 30, "lost": 41}
    assert ledger.totals() == {f"seconds/{name}": seconds for name, seconds in totals.items()}
    ledger.end(FINISHED)

    history = read_ledger(tmp_path)
    assert [a.reason for a in history.attempts] == [None, "preempted", "finished"]
    assert [(a.first_step, a.last_step) for a in history.attempts] == [(0, 50), (50, 75), (75, 100)]
    first = history.attempts[0]
    assert first.ended is None and first.alive == start + 172 and first.device_kind == "TPU v5e"
    assert (first.process_count, first.device_count) == (2, 8)
    assert history.attempts[1].ended == history.attempts[1].started + 51

    account = summary(history)
    wall = 172 + 305 + 51 + 80
    assert account["wall"] == wall and account["between"] == 305
    assert account["lost"] == 41 and account["goodput"] == 200 / wall
    assert account["seconds"] == {
        "compile": 20,
        "data": 0,
        "step": 240,
        "probe": 0,
        "checkpoint": 2,
        "evaluation": 30,
        "other": 11,
    }
    assert account["attempts"] == 3 and account["damaged"] == 0


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
    st.one_of(PASSING, st.sampled_from(["save", "tick"])),
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
                    ledger.saved(1)
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
    account = summary(read_ledger(folder))
    assert sum(account["seconds"].values()) + account["between"] == pytest.approx(account["wall"])
    assert 0 <= account["goodput"] <= 1 and -1e-4 <= account["lost"] <= account["wall"] + 1e-4
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
        ({"seconds": {}}, {"alive": 0.0}, {"seconds": dict.fromkeys(CATEGORIES, -1.0)}), start=7
    ):
        (tmp_path / f"attempt-{number:04d}.json").write_text(json.dumps(record | change))
    (tmp_path / "notes.txt").write_text("theirs")
    history = read_ledger(tmp_path)
    assert history.damaged == 8 and [a.first_step for a in history.attempts] == [7]
    Ledger(tmp_path).begin(8)
    assert (tmp_path / "attempt-0010.json").exists()


def test_a_missing_folder_is_an_empty_account(tmp_path):
    account = summary(read_ledger(tmp_path / "none"))
    assert account["attempts"] == 0 and account["wall"] == 0 and account["goodput"] == 0


def test_attempts_that_seem_to_overlap(tmp_path):
    for start in (1000.0, 500.0):  # the second machine's clock is behind
        clock = Clock(start)
        ledger = clock.ledger(tmp_path)
        ledger.begin(0)
        with ledger.during("step"):
            clock.now += 600.0
        ledger.end(FINISHED)
    account = summary(read_ledger(tmp_path))
    assert account["between"] == 0 and account["goodput"] == 1


def test_no_folder_no_account(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(None)
    ledger.begin(0)
    with ledger.during("step"):
        ledger.saved(1)
    ledger.end(FINISHED)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_category_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="'steps'"), Ledger(None).during("steps"):
        pass


def test_a_disk_that_fails_does_not_end_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "ledger")
    ledger.begin(0)
    ledger.saved(3)
    ledger.end(FINISHED)


def test_the_ledger_is_fast(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin(0)
    before = time.perf_counter()
    for _ in range(10_000):
        with ledger.during("step"):
            pass
    assert time.perf_counter() - before < 1.0  # 0.1 ms each; about 3 us on an idle core
