"""Rows of metrics.jsonl: written once, kept over a resume, also after a kill while writing."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.ops.metrics import JsonlWriter, MultiWriter, read_jsonl


def _write(path: Path, resume_at: int, rows: list[tuple[int, dict[str, float]]]) -> None:
    writer = JsonlWriter(path, resume_at)
    for step, scalars in rows:
        writer.write_scalars(step, scalars)
    writer.close()


def test_a_row_is_a_line_of_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    values = {"a": 1, "b": np.float32(0.5), "c": math.nan, "d": math.inf, "e": np.float64("-inf")}
    _write(path, 0, [(3, values)])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = path.read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert row == {"step": 3, "a": 1.0, "b": 0.5, "c": None, "d": None, "e": None}
    assert read_jsonl(path) == [row]


def test_rows_are_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_jsonl(path) == []
    writer = JsonlWriter(path, 0)
    writer.write_scalars(1, {"a": 1.0})
    assert read_jsonl(path) == [{"step": 1, "a": 1.0}]
    writer.close()


def test_resuming_drops_later_rows_and_keeps_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, 0, [(s, {"a": s, "b": math.nan}) for s in range(1, 8)])
    lines = path.read_text().splitlines()
    _write(path, 4, [])
    assert path.read_text().splitlines() == lines[:4]
    _write(path, 4, [(5, {"a": 50.0})])
    assert path.read_text().splitlines()[:4] == lines[:4]
    assert [r["a"] for r in read_jsonl(path)] == [1, 2, 3, 4, 50]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_is_made_again_at_the_resumed_step_has_one_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    _write(path, 0, [(4, {"loss": 1.0}), (4, {"probe": 0.5}), (5, {"loss": 2.0})])
    expected = [{"step": 4, "loss": 1.0}, {"step": 4, "probe": 0.5}, {"step": 5, "loss": 2.0}]
    for _ in range(2):
        _write(path, 4, [(4, {"probe": 0.5}), (5, {"loss": 2.0})])
        assert read_jsonl(path) == expected
    _write(path, 4, [(4, {"another": 1.0})])
    assert read_jsonl(path) == [*expected[:2], {"step": 4, "another": 1.0}]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), count=st.integers(0, 6), resume_at=st.integers(0, 7))
def test_a_kill_while_writing_costs_the_torn_row_only(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int, resume_at: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    rows: list[dict[str, Any]] = [{"step": s, "loss": s / 3} for s in range(1, count + 1)]
    _write(path, 0, [(s, {"loss": s / 3}) for s in range(1, count + 1)])
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    # A row is complete with its closing brace; its newline may be lost.
    kept = [r for r in rows[: (whole[:cut] + b"\n").count(b"}\n")] if r["step"] <= resume_at]
    for _ in range(2):  # idempotent
        _write(path, resume_at, [])
        assert read_jsonl(path) == kept
    _write(path, resume_at, [(9, {"loss": 9.0})])
    assert read_jsonl(path) == [*kept, {"step": 9, "loss": 9.0}]


class _Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def write_scalars(self, step: int, scalars: Any) -> None:
        self.calls.append(("scalars", step, dict(scalars)))

    def flush(self) -> None:
        self.calls.append(("flush",))

    def close(self) -> None:
        self.calls.append(("close",))


def test_every_writer_gets_everything(tmp_path: Path) -> None:
    a, b = _Recorder(), _Recorder()
    jsonl = JsonlWriter(tmp_path / "m", 0)
    writer = MultiWriter([a, jsonl, b])
    writer.write_scalars(1, {"x": 2.0})
    writer.flush()
    writer.close()
    expected = [("scalars", 1, {"x": 2.0}), ("flush",), ("close",)]
    assert a.calls == b.calls == expected
    assert read_jsonl(tmp_path / "m") == [{"step": 1, "x": 2.0}]
