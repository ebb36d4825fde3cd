"""Reads `result.json` and `metrics.jsonl` of a run, which may be damaged or changed by hand."""

import contextlib
import json
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import read_bytes
from frepo_scale.ops.metrics import read_jsonl

# The entry of the results in an export for what `frepo-scale evaluate` has measured of its run.
LATER = "evaluated"
# Names of values with one type, wherever they occur; each may also be null.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("steps", "selected_step", "held_out_images", "n", "test_images"), int),
    **dict.fromkeys(("seconds", "ridge_raised_share", "implicit_dropped_share"), int | float),
    **dict.fromkeys(("mean", "std", "top5_mean", "top5_std", "standard_error", "x"), int | float),
    **dict.fromkeys(("selected_by", "config_sha256", "name", "title", "key", "label"), str),
    **dict.fromkeys(("row", "column", "unit", "x_label"), str),
    "lower_is_better": bool,
    "evaluations": list,
    LATER: dict,
}


def read_result(path: Path, command: str = "distill") -> dict[str, Any]:
    """The content of `result.json`, or of a file like it.

    Args:
      path: the file.
      command: the command that writes it.

    Raises:
      InputError: it is missing, damaged, or a value has another type than a run writes.
    """
    fix = f"remove it, and the same frepo-scale {command} command makes it again"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        result = json.loads(read_bytes(path))
        if isinstance(result, dict):
            wrong = wrong_value(result)
            if wrong is None:
                return result
            raise InputError(f"{path}: {wrong}", "the types that a run writes", fix)
    raise InputError(f"{path} is damaged", "JSON as a run has written it", fix)


def wrong_value(result: dict[str, Any]) -> str | None:
    """The first value of a result that a report cannot use, as text; None if there is none."""
    scores = [part for part in result.values() if isinstance(part, dict)]
    for part in (result, *scores):
        if (found := _wrong_type(part)) is not None:
            return found
    for table in result.get("evaluations") or []:
        if not isinstance(table, dict) or not isinstance(table.get("title"), str):
            return f"evaluations has {str(table)[:80]!r}"
        rows = table.get("rows")
        if not isinstance(rows, list):
            return f"rows is {str(rows)[:80]!r}"
        for row in rows:
            if not isinstance(row, dict) or not {"key", "label"} <= row.keys():
                return f"rows has {str(row)[:80]!r}"
            if (found := _wrong_type(row)) is not None:
                return found
    return wrong_value(result[LATER]) if result.get(LATER) else None


def _wrong_type(part: dict[str, Any]) -> str | None:
    for name, value in part.items():
        if name in _TYPES and value is not None and not _is(value, _TYPES[name]):
            return f"{name} is {str(value)[:80]!r}"
    return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; empty if it does not exist.

    Raises:
      InputError: a value is no number.
    """
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            if value is not None and not _is(value, int | float):
                raise InputError(
                    f"{path}, line {number}: {name} is {str(value)[:80]!r}",
                    "a number, as a run writes it",
                    "remove the line",
                )
    return rows


def _is(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
