"""What a run leaves: texts, the report, and the table printed at the end."""

import json
from pathlib import Path

from frepo_scale.core.atomic import whole_file
from frepo_scale.export.report import format_table, write_report
from frepo_scale.ops.metrics import read_jsonl
from frepo_scale.ops.workdir import Workdir


def write_run_report(place: Workdir, name: str) -> None:
    """Writes `report.html` from what the run has left so far."""
    galleries = [(int(p.stem.removeprefix("step_")), p) for p in place.gallery.glob("step_*.png")]
    result = json.loads(place.result.read_text()) if place.result.exists() else {}
    write_report(
        place.report,
        title=name,
        result=result,
        metrics=read_jsonl(place.metrics),
        galleries=galleries,
        operative_config=place.operative_config.read_text(),
        paths=_paths(place),
    )


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


def print_result(place: Workdir) -> None:
    """Prints the table of a finished run and where everything is."""
    print("\n" + format_table(json.loads(place.result.read_text())) + "\n")
    for what, path in _paths(place).items():
        print(f"{what:14} {path}")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())
