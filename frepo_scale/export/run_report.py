"""Text files of a run, its report, and the table printed at its end."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder, read_bytes
from frepo_scale.core.text import decode_text
from frepo_scale.export.account import account, surroundings
from frepo_scale.export.report import format_table, write_report
from frepo_scale.export.result_file import read_metrics, read_result
from frepo_scale.ops.goodput import History, read_ledger
from frepo_scale.ops.workdir import Workdir

_ABOUT = {
    "data set": "data.name",
    "images per class": "distill.ipc",
    "outer steps": "distill.steps",
    "algorithm": "algorithm.name",
    "network": "net.name",
    "seed": "distill.seed",
}
_PICTURE = re.compile(r"step_(\d+)\.png")


def write_run_report(workdir: Workdir, name: str) -> None:
    """Writes `report.html` from what the run has written so far."""
    pictures = children(workdir.gallery) if is_folder(workdir.gallery) else []
    galleries = [(int(found[1]), p) for p in pictures if (found := _PICTURE.fullmatch(p.name))]
    result = read_result(workdir.result) if is_file(workdir.result) else {}
    history = read_ledger(workdir.ledger)
    write_report(
        workdir.report,
        title=name,
        result=result,
        metrics=read_metrics(workdir.metrics),
        galleries=galleries,
        times=account(history),
        environment=surroundings(history),
        about=_about(workdir, history),
        operative_config=read_text(workdir.operative_config),
        paths=_paths(workdir),
        evaluated=read_evaluation(workdir),
    )


def read_evaluation(workdir: Workdir) -> dict[str, Any] | None:
    """The content of `evaluation.json`; None if there is none. `InputError` if it is damaged."""
    return read_result(workdir.evaluation, "evaluate") if is_file(workdir.evaluation) else None


def _about(workdir: Workdir, history: History) -> dict[str, str]:
    """Data set, seed, and what ran it, from the settings that the workdir belongs to."""
    found = {}
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads(read_bytes(workdir.identity))
        for name, setting in _ABOUT.items():
            if setting in settings:
                found[name] = str(settings[setting])
    for attempt in history.attempts[-1:]:
        for name in ("frepo-scale", "code", "commit", "jax", "devices"):
            if name in attempt.environment:
                found[name] = attempt.environment[name]
    return found


def read_text(path: Path) -> str:
    """A text file of a run; `InputError` if it is missing or damaged."""
    try:
        return decode_text(read_bytes(path), path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be read ({reason})", "a file a run has written") from error


def _paths(workdir: Workdir) -> dict[str, str]:
    return {
        "distilled set": str(workdir.distilled),
        "result": str(workdir.result),
        "report": str(workdir.report),
        "gallery": str(workdir.gallery),
        "metrics": str(workdir.metrics),
        "TensorBoard": str(workdir.tensorboard),
        "checkpoints": str(workdir.checkpoints),
    }


def print_result(workdir: Workdir, heading: str = "") -> None:
    """Prints the table of a finished run and the paths of its files."""
    print(heading + "\n" + format_table(read_result(workdir.result)) + "\n")
    for what, path in _paths(workdir).items():
        print(f"{what:14} {path}")


def print_account(workdir: Workdir) -> None:
    """Prints how the time of a run was spent so far."""
    lines = account(read_ledger(workdir.ledger))
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())
