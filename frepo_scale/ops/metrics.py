"""Where numbers go: a small writer protocol, a JSON-lines writer, and a fan-out."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.paths import is_local, read_bytes


class MetricWriter(Protocol):
    """Receives scalars and images of a step."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars of a step."""

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Records a (H, W, 3) uint8 image of a step."""

    def flush(self) -> None:
        """Makes what was recorded durable."""

    def close(self) -> None:
        """Flushes and releases."""


class JsonlWriter:
    """One JSON object per line: `{"step": s, name: value, ...}`.

    On an object store rows are there from the next `flush` on. What was not flushed at the end is
    left out: a resumed run makes it again, and one that lost its workdir must not write there.
    """

    def __init__(self, path: Path, resume_at: int) -> None:
        """Opens `path`, dropping rows of steps after `resume_at` (they will be made again)."""
        kept = [row for row in read_jsonl(path) if row["step"] <= resume_at]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        self._file: TextIO | _Rewritten
        if is_local(path):
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text)
            os.replace(temporary, path)
            self._file = path.open("a", buffering=1)  # whole lines: people watch the file
        else:
            self._file = _Rewritten(path, text)
        # A probe that is not in the checkpoint of its own step is made again; its row is there.
        self._resume_at = resume_at
        self._there = {frozenset(row) for row in kept if row["step"] == resume_at}

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line; values that are not finite become null.

        What `resume_at` has already is not written again: the same step has the same numbers.
        """
        row: dict[str, Any] = {"step": step}
        for name, value in scalars.items():
            row[name] = float(value) if math.isfinite(value) else None
        if step == self._resume_at and frozenset(row) in self._there:
            return
        self._file.write(json.dumps(row) + "\n")

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Images have no place in a line of JSON."""

    def flush(self) -> None:
        """Hands the lines to the operating system or the store."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _Rewritten:
    """A text on a store, which cannot append: kept here and written whole at every flush."""

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
        """Writes nothing."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; empty if it is not there. A torn last line is left out."""
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # not JSON, or not UTF-8
            break  # a kill while writing tears the last line; nothing good follows it
        if not isinstance(row, dict) or "step" not in row:
            break
        rows.append(row)
    return rows


class MultiWriter:
    """Hands everything to several writers."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        """Takes ownership of the writers."""
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """To each writer."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """To each writer."""
        for writer in self._writers:
            writer.write_image(step, name, image)

    def flush(self) -> None:
        """Each writer."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Each writer."""
        for writer in self._writers:
            writer.close()
