"""What a run leaves: texts, the report, and the table printed at the end."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder, read_bytes
from frepo_scale.export.account import account
from frepo_scale.export.report import format_table, write_report
from frepo_scale.ops.goodput import read_ledger
from frepo_scale.ops.metrics import read_jsonl
from frepo_scale.ops.workdir import Workdir

_PICTURE = re.compile(r"step_(\d+)\.png")


def write_run_report(place: Workdir, name: str) -> None:
    """Writes `report.html` from what the run has left so far."""
    pictures = children(place.gallery) if is_folder(place.gallery) else []
    galleries = [(int(found[1]), p) for p in pictures if (found := _PICTURE.fullmatch(p.name))]
    result = _result(place) if is_file(place.result) else {}
    write_report(
        place.report,
        title=name,
        result=result,
        metrics=read_jsonl(place.metrics),
        galleries=galleries,
        times=account(read_ledger(place.ledger)),
        operative_config=read_text(place.operative_config),
        paths=_paths(place),
    )


def _result(place: Workdir) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(read_bytes(place.result))
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
        return read_bytes(path).decode("utf-8")
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


def print_account(place: Workdir) -> None:
    """Prints where the time of a run went so far."""
    lines = account(read_ledger(place.ledger))
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())
