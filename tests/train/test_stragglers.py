"""The process that the others wait for is named, once and only if it is slow twice in a row."""

import pytest

from frepo_scale.train import stragglers as module
from frepo_scale.train.stragglers import Stragglers, is_slow


class Group:
    """Process 0 of several; its clock runs by hand."""

    def __init__(self, monkeypatch, processes=4, first=True):
        self.now, self.others, self.lines, self.rows = 0.0, [0.1] * (processes - 1), [], []
        self.exchanges = 0
        monkeypatch.setattr(module, "exchange", self.exchange)
        monkeypatch.setattr(module, "is_first", lambda: first)
        self.own = Stragglers(
            [f"node{n}" for n in range(processes)],
            self.lines.append,
            lambda step, row: self.rows.append((step, row)),
            lambda: self.now,
        )

    def exchange(self, value):
        self.exchanges += 1
        return [value, *self.others]

    def steps(self, number, own=0.1, whole=1.0):
        for _ in range(number):
            self.own.begin()
            self.now += own
            self.own.end(1)
            self.now += whole - own

    def compared(self, step=50, others=None):
        if others is not None:
            self.others = others
        self.steps(10)
        self.own.compare(step)
        return len(self.lines)


SLOW = [0.1, 0.7, 0.1]  # process 2


def test_a_process_that_is_slow_twice_in_a_row_is_named_every_ten_minutes(monkeypatch):
    group = Group(monkeypatch)
    assert group.compared(others=SLOW) == 0
    assert group.compared(step=70) == 1
    (line,) = group.lines
    assert "process 2 on node2" in line and "0.7 s" in line and "0.1 s" in line and "70" in line
    assert [group.compared() for _ in range(59)] == [1] * 59  # ten seconds each
    assert group.compared() == 2
    assert group.rows[0] == (50, {
        "slowest_process": 2, "slowest_process_seconds": 0.7, "other_processes_seconds": 0.1,
    })  # fmt: skip
    assert len(group.rows) == 11  # one a minute


def test_a_single_hiccup_and_differences_that_cost_nothing_are_not_named(monkeypatch):
    group = Group(monkeypatch)
    for others in (SLOW, [0.1] * 3, SLOW, [0.7, 0.1, 0.1], [0.1, 0.25, 0.1], [0.1, 0.25, 0.1]):
        assert group.compared(others=others) == 0


def test_the_own_time_is_that_until_the_step_is_dispatched(monkeypatch):
    group = Group(monkeypatch, processes=2)
    seen = []
    monkeypatch.setattr(module, "exchange", lambda value: seen.append(value) or [value, 0.1])
    group.steps(9, own=0.5)
    group.own.compare(9)
    group.steps(9, own=0.75)
    group.own.compare(18)
    assert seen == pytest.approx([0.5, 0.75])
    assert "process 0 on node0" in group.lines[0]  # also of two processes


def test_few_steps_are_not_compared_and_one_process_never(monkeypatch):
    group = Group(monkeypatch)
    group.steps(7)
    group.own.compare(7)
    assert group.exchanges == 0
    group.steps(1)
    group.own.compare(8)
    assert group.exchanges == 1
    alone = Group(monkeypatch, processes=1)
    alone.compared()
    assert alone.exchanges == 0 and alone.rows == []


def test_only_process_0_prints(monkeypatch):
    group = Group(monkeypatch, first=False)
    assert [group.compared(others=SLOW) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("seconds", "median", "step", "slow"),
    [(0.5, 0.1, 1.0, True), (0.5, 0.3, 1.0, False), (0.5, 0.1, 3.0, False), (0.1, 0.0, 0.2, True)],
)
def test_what_slow_means(seconds, median, step, slow):
    assert is_slow(seconds, median, step) == slow
