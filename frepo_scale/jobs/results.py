"""What a run leaves: texts, the report, and the table printed at the end."""

import contextlib
import json
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.export.report import format_table, write_report
from frepo_scale.ops.metrics import read_jsonl
from frepo_scale.ops.workdir import Workdir


def write_run_report(place: Workdir, name: str) -> None:
    """Writes `report.html` from what the run has left so far."""
    galleries = [(int(p.stem.removeprefix("step_")), p) for p in place.gallery.glob("step_*.png")]
    result = _result(place) if place.result.exists() else {}
    write_report(
        place.report,
        title=name,
        result=result,
        metrics=read_jsonl(place.metrics),
        galleries=galleries,
        operative_config=read_text(place.operative_config),
        paths=_paths(place),
    )


def _result(place: Workdir) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(place.result.read_bytes())
        if isinstance(result, dict):
            return result
    raise InputError(
        f"{place.result} is damaged",
        "JSON as a run has written it",
        "remove it, and the same frepo-scale distill command makes it again",
    )


def read_text(path: Path) -> str:
    """A text that a run has left; `InputError` where it is gone or damaged."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason})", "a file a run has written") from error


def _paths(place: Workdir) -> dict[str, str]:
    return {
        "distilled set": str(place.distilled),
        "result": str(place.result),
        "report": str(place.report),
        "gallery": str(place.gallery),
        "metrics": str(place.metrics),
        "TensorBoard": str(place.tensorboard),
        "checkpoints": str(place.checkpoints),
    }


def print_result(place: Workdir, heading: str = "") -> None:
    """Prints the table of a finished run and where everything is."""
    print(heading + "\n" + format_table(_result(place)) + "\n")
    for what, path in _paths(place).items():
        print(f"{what:14} {path}")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())
