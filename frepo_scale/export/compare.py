"""Several distilled sets side by side: a table for the terminal and one self-contained page."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.data.subset import text_of
from frepo_scale.export.curves import compared_curve
from frepo_scale.export.formats import Export
from frepo_scale.export.gallery import save_gallery
from frepo_scale.export.page import embed, fill_page
from frepo_scale.export.report import ResultRow, result_tables

_NONE = "–"
_AGAIN = " (frepo-scale evaluate)"
_CLASSES, _PER_CLASS = 20, 5  # shown of each set
_CURVES = {
    "probe_accuracy": "Probe: held-out images",
    "target_accuracy": "Regression: target batch",
}
_PROTOCOL = (
    *("dataset", "net", "width", "depth", "norm", "nets", "steps", "batch", "learning_rate"),
    "dtype",
)
_FACTS = ("ipc", "step", "seed", "dataset_sha256", "config_sha256")
_SETTING = re.compile(r"^([A-Z][A-Z0-9_]*) = (.*(?:\n[ \t].*)*)", re.MULTILINE)
# In other rows; a path of the maker.
_NOT_LISTED = (
    "DATASET",
    "IPC",
    "SEED",
    "EVAL_NETS",
    "EVAL_STEPS",
    "EVAL_LEARNING_RATE",
    "DATA_DIR",
)
_LONGEST = 40  # characters of a value


@dataclass(frozen=True)
class ComparedSet:
    """One column of a comparison.

    Attributes:
      name: its heading; different for each set.
      export: the set.
      result: see `report.result_tables`; {} where it was not evaluated.
      metrics: logged rows of its run; empty for an export.
      evaluated: what `frepo-scale evaluate` has found, as `evaluation.json` holds it; {} without.
    """

    name: str
    export: Export
    result: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluated: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Measured:
    """What was measured of one set, and the values of the protocol by the names of their rows."""

    result: dict[str, Any]
    protocol: dict[str, Any]


def _protocol(one: ComparedSet, recipe: dict[str, Any]) -> dict[str, Any]:
    """What decides a score, of `evaluation` in an export or `protocol` in `evaluation.json`."""
    recipe = {"dataset": one.export.provenance.get("dataset")} | recipe
    parts = {
        name: part if isinstance(part := recipe.get(name), dict) else {}
        for name in ("augment", "test")
    }
    return {name.replace("_", " "): recipe.get(name) for name in _PROTOCOL} | {
        "args": recipe.get("args") or None,
        "flip": parts["augment"].get("flip"),
        "test images": parts["test"].get("images"),
    }


def _groups(sets: Sequence[ComparedSet]) -> dict[str, list[_Measured]]:
    """What is compared, by the suffix of its headings.

    The numbers of the ends of runs, where a set of another program has those of `evaluate`; and
    where a set has both, all those of `evaluate`.
    """
    later = [
        _Measured(one.evaluated, _protocol(one, one.evaluated.get("protocol") or {}))
        for one in sets
    ]
    first = [
        again
        if one.evaluated and not result_tables(one.result)
        else _Measured(one.result, _protocol(one, one.export.evaluation))
        for one, again in zip(sets, later, strict=True)
    ]
    both = any(one.evaluated and result_tables(one.result) for one in sets)
    return {"": first} | ({_AGAIN: later} if both else {})


@dataclass(frozen=True)
class _Row:
    label: str
    cells: list[str]
    best: set[int]  # columns


def _accuracies(sets: Sequence[ComparedSet]) -> dict[str, list[_Row]]:
    """The rows of each evaluation by its title, in the order in which they first occur."""
    measured: dict[str, dict[str, dict[int, ResultRow]]] = {}
    for suffix, group in _groups(sets).items():
        for column, one in enumerate(group):
            for table in result_tables(one.result):
                for row in table.rows:
                    # Labels tell how a set was selected; keys are the same for all.
                    named = measured.setdefault(table.title + suffix, {})
                    named.setdefault(row.key, {})[column] = row
    same_data = not _different_data(sets)
    return {
        title: [_accuracy_row(found, len(sets), same_data) for found in rows.values()]
        for title, rows in measured.items()
    }


def _classes(one: ComparedSet) -> tuple[int, ...]:
    """The classes that have images, ascending."""
    return tuple(int(label) for label in np.unique(one.export.hard_labels))


def _different_data(sets: Sequence[ComparedSet]) -> str:
    """Why the accuracies of these sets are of different tasks; "" if they are not."""
    if len({str(one.export.provenance.get("dataset")) for one in sets}) > 1:
        return "These sets were made from different data: compare their accuracies with care."
    if len({(_classes(one), len(one.export.class_names)) for one in sets}) > 1:
        return "These sets have different classes: their accuracies cannot be compared."
    return ""


def _accuracy_row(found: dict[int, ResultRow], columns: int, same_data: bool) -> _Row:
    labels = {row.label for row in found.values()}
    label = min(labels, key=len) if len(labels) == 1 else min(labels, key=len).partition(",")[0]
    cells = [found[column].text() if column in found else _NONE for column in range(columns)]
    choose = min if any(row.lower_is_better for row in found.values()) else max
    most = choose(row.mean for row in found.values())
    best = {c for c, row in found.items() if row.mean == most}
    return _Row(label, cells, best if same_data and len(found) > 1 else set())


def _differences(sets: Sequence[ComparedSet]) -> list[_Row]:
    """Data set and size of each set; every part of protocol, origin and settings that differs."""
    shapes = [one.export.images.shape for one in sets]
    sizes = [f"{n} of {h} x {w} x {c}" for n, h, w, c in shapes]
    rows = [
        _Row("data set", [_text(one.export.provenance.get("dataset")) for one in sets], set()),
        _Row("images", sizes, set()),
    ]
    if len({_classes(one) for one in sets}) > 1:
        cells = [f"{text_of(_classes(one))} of {len(one.export.class_names)}" for one in sets]
        rows.append(_Row("classes", cells, set()))
    compared: list[tuple[str, Sequence[str], list[dict[str, Any]]]] = [
        (f"evaluation{suffix}", list(group[0].protocol), [one.protocol for one in group])
        for suffix, group in _groups(sets).items()
    ]
    compared.append(("provenance", _FACTS, [one.export.provenance for one in sets]))
    for kind, names, parts in compared:
        for name in names:
            values = [_text(part.get(name)) for part in parts]
            if len(set(values)) > 1:
                label = name.replace("_", " ")
                rows.append(_Row(f"{kind}: {label}", values, set()))
    return rows + _settings(sets)


def _settings(sets: Sequence[ComparedSet]) -> list[_Row]:
    """The settings with different values in the recipes of the sets that have them."""
    texts = [str(one.export.provenance.get("config", "")) for one in sets]
    found = [
        # gin begins a long value on a new line, after a backslash.
        {name: " ".join(value.removeprefix("\\").split()) for name, value in _SETTING.findall(text)}
        for text in texts
    ]
    rows = []
    for name in sorted({name for settings in found for name in settings} - {*_NOT_LISTED}):
        if len({settings[name] for settings in found if name in settings}) > 1:
            cells = [_text(settings.get(name)) for settings in found]
            rows.append(_Row(f"setting: {name}", cells, set()))
    return rows


def _text(value: Any) -> str:
    if value is None:
        return _NONE
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if re.fullmatch(r"[0-9a-f]{64}", text):  # a sha256
        return text[:12]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def compared_table(sets: Sequence[ComparedSet]) -> str:
    """The comparison as aligned text, without a final newline."""
    parts = [("", _differences(sets)), *_accuracies(sets).items()]
    names = [one.name for one in sets]
    rows = [row for _, group in parts for row in group]
    first = max(len(row.label) for row in rows)
    widths = [max(len(n), *(len(row.cells[c]) for row in rows)) for c, n in enumerate(names)]

    def line(label: str, cells: Sequence[str]) -> str:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([f"  {label:<{first}}", *padded]).rstrip()

    lines = []
    for title, group in parts:
        lines += [title] if title else [line("", names)]
        lines += [line(row.label, row.cells) for row in group]
    if reason := _different_data(sets):
        lines.append(reason)
    return "\n".join(lines)


def write_comparison(path: Path, sets: Sequence[ComparedSet]) -> None:
    """Writes one HTML page that needs no other file; an existing one is replaced.

    Args:
      path: the page.
      sets: at least two.

    Raises:
      InputError: `path` cannot be written.
    """
    names = [one.name for one in sets]
    accuracies = _accuracies(sets)
    sections = [("Sets", _html_table(names, _differences(sets)))]
    sections += [
        (title[:1].upper() + title[1:], _html_table(names, rows))
        for title, rows in accuracies.items()
    ]
    named = {one.name: one.metrics for one in sets if one.metrics}
    curves = [(heading, compared_curve(named, key)) for key, heading in _CURVES.items()]
    curves.append(("Regression loss", compared_curve(named, "regression_loss", percent=False)))
    figures = "".join(
        f"<figure><figcaption>{escape(heading)}</figcaption>{svg}</figure>"
        for heading, svg in curves
        if svg
    )
    sections.append(("Curves", f'<div class="curves">{figures}</div>' if figures else ""))
    sections += [(f"Images of {one.name}", _gallery(one)) for one in sets]
    page = fill_page(
        title=" · ".join(names),
        headline=_headline(sets, accuracies),
        sections=sections,
        kind="Comparison of distilled data sets",
    )
    with whole_file(path) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def _headline(sets: Sequence[ComparedSet], accuracies: dict[str, list[_Row]]) -> str:
    if reason := _different_data(sets):
        return reason
    different = any(
        len({tuple(map(str, one.protocol.values())) for one in group if one.result}) > 1
        for group in _groups(sets).values()
    )
    if accuracies and different:
        return (
            "The accuracies were measured by different protocols, listed below:"
            " <code>frepo-scale evaluate</code> with the same settings on each prints accuracies"
            " that can be compared."
        )
    return "Measured by the same protocol." if accuracies else "None of these sets was evaluated."


def _html_table(names: Sequence[str], rows: Sequence[_Row]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["", *names])
    lines = []
    for row in rows:
        cells = "".join(
            f'<td class="best">{escape(cell)}</td>' if c in row.best else f"<td>{escape(cell)}</td>"
            for c, cell in enumerate(row.cells)
        )
        lines.append(f'<tr><th scope="row">{escape(row.label)}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table class="compare"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _gallery(one: ComparedSet) -> str:
    names = one.export.present_names
    ipc = len(one.export.images) // len(names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gallery.png"
        save_gallery(file, one.export.to_pixels(), names, ipc, _CLASSES, _PER_CLASS)
        image = embed(file.read_bytes(), f"distilled images of {one.name}")
    return f'<figure class="large">{image}</figure>'
