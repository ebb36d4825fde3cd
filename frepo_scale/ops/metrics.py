"""Metrics: a small writer protocol, a JSON-lines writer, and a writer to several writers."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.paths import is_local, read_bytes


class MetricWriter(Protocol):
    """Receives the scalars of a step."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars of a step."""

    def flush(self) -> None:
        """Makes everything recorded durable."""

    def close(self) -> None:
        """Flushes and releases resources."""


class JsonlWriter:
    """One JSON object per line: `{"step": s, name: value, ...}`.

    On an object store rows appear at the next `flush`. `close` does not flush there: a resumed run
    writes the missing rows again, and a run that lost its workdir must not write to it.
    """

    def __init__(self, path: Path, resume_at: int) -> None:
        """Opens `path` and drops rows of steps after `resume_at`, which will be written again."""
        kept = [row for row in read_jsonl(path) if row["step"] <= resume_at]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        self._file: TextIO | _Rewritten
        if is_local(path):
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text)
            os.replace(temporary, path)
            self._file = path.open("a", buffering=1)  # line by line: people watch the file
        else:
            self._file = _Rewritten(path, text)
        # A probe after the checkpoint of its own step is repeated; its row may already exist.
        self._resume_at = resume_at
        self._existing = {frozenset(row) for row in kept if row["step"] == resume_at}

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; values that are not finite become null.

        A row of step `resume_at` that exists is not written again: it has the same values.
        """
        row: dict[str, Any] = {"step": step}
        for name, value in scalars.items():
            row[name] = float(value) if math.isfinite(value) else None
        if step == self._resume_at and frozenset(row) in self._existing:
            return
        self._file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Hands the lines to the operating system or the store."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _Rewritten:
    """A text file on an object store, which cannot append: rewritten as a whole at every flush."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text
        self._flushed = False

    def write(self, text: str) -> None:
        self._text += text
        self._flushed = False

    def flush(self) -> None:
        if not self._flushed:
            with whole_file(self._path) as file:
                file.write(self._text.encode())
            self._flushed = True

    def close(self) -> None:
        """Does not write; see `JsonlWriter`."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; empty if it does not exist. A torn last line is left out."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            break  # a kill while writing tears the last line; nothing valid follows
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows


class MultiWriter:
    """Passes everything to several writers."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        """Creates a writer that flushes and closes `writers` with itself."""
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Passes the scalars to each writer."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        """Flushes each writer."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Closes each writer."""
        for writer in self._writers:
            writer.close()
