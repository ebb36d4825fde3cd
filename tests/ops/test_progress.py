"""The progress bar counts, and stays quiet in a log file."""

import re
import sys

import pytest

from frepo_scale.ops.progress import Progress


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""  # standard output belongs to results
    return [line for line in re.split(r"[\r\n]+", captured.err) if line.strip()]


def test_counts_from_the_start_to_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("distil", 1000, 400) as progress:
        assert "distil:  40%" in _lines(capsys)[-1]
        for _ in range(598):
            progress.advance()
        progress.advance(2)
    assert "distil: 100%" in (last := _lines(capsys)[-1]) and "1000/1000" in last


def test_a_log_file_gets_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("distil", 5000) as progress:
        for step in range(5000):
            progress.advance()
            progress.note(loss=step)
    lines = _lines(capsys)
    assert 1 <= len(lines) <= 4
    assert all(line.isascii() for line in lines)


def test_notes_are_shown_beside_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("distil", 2) as progress:
        progress.note(loss=0.123456789, accuracy=float("nan"), what="probe")
        progress.advance(2)
    last = _lines(capsys)[-1]
    assert "loss=0.1235" in last and "accuracy=nan" in last and "what=probe" in last


def test_an_error_propagates_and_leaves_the_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ZeroDivisionError), Progress("distil", 10) as progress:
        progress.advance(3)
        raise ZeroDivisionError
    assert "3/10" in _lines(capsys)[-1]


def test_a_terminal_is_drawn_more_often(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("distil", 10) as progress:
        assert progress._bar.mininterval < 1 and progress._bar.dynamic_ncols
    assert _lines(capsys)


def test_the_unit_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("decoding", 10, unit=" images") as progress:
        progress.advance(10)
    assert "images/s" in _lines(capsys)[-1]


def test_a_terminal_shows_the_first_notes_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("distil", 1) as progress:
        progress.note(a=1, b=2, c=3, d=4)
        assert progress._bar.postfix == "a=1, b=2, c=3"
