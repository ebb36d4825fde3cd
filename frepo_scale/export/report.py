"""The result of a run as a table for the terminal and as one self-contained HTML page."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import read_bytes
from frepo_scale.export.account import duration
from frepo_scale.export.curves import accuracy_curve, loss_curve, point_curves
from frepo_scale.export.evaluation_figures import figure, grid_of, text_grid
from frepo_scale.export.fragments import definitions, file_links, operative_section
from frepo_scale.export.page import embed, fill_page

_MOST_SNAPSHOTS = 8
_NOTHING = "no accuracies: the data set has no test images"
_IN_HEADLINE = {
    "distilled": "",
    "random_real": "as many random real images give",
    "full_data": "the full training set gives",
}
_THUMBNAIL = (440, 640)  # pixels, width and height at most


@dataclass(frozen=True)
class ResultRow:
    """One line of a result.

    Attributes:
      key: its name in `result.json`; "distilled, top 5" for a top-5 accuracy.
      label: what was measured.
      mean: over the nets, in [0, 1].
      std: over the nets; None where it is not known or there is one net.
      row: its row in a table with two axes; "" if there is none.
      column: its column there.
      unit: "%" for fractions; "" for numbers that are shown as they are.
      lower_is_better: whether the lowest value is the best one.
    """

    key: str
    label: str
    mean: float
    std: float | None
    row: str = ""
    column: str = ""
    unit: str = "%"
    lower_is_better: bool = False

    def text(self) -> str:
        """Such as "87.1 ± 0.8 %", or "0.412 ± 0.013" without a unit."""
        factor, digits = (100, 1) if self.unit == "%" else (1, 3)
        spread = "" if self.std is None else f" ± {factor * self.std:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread} {self.unit}".rstrip()


@dataclass(frozen=True)
class ResultTable:
    """The rows of one evaluation.

    Attributes:
      title: what they are, such as "test accuracy".
      networks: over how many nets, as text; "" where it is not known or differs. Also on how many
        test images, where the evaluation says it.
      rows: the measurements; top-5 accuracies follow those of all top-1 accuracies.
      curves: a figure of the rows that are points of curves, as HTML; "" without any.
    """

    title: str
    networks: str
    rows: tuple[ResultRow, ...]
    curves: str = ""


def result_tables(result: dict[str, Any]) -> list[ResultTable]:
    """The scores of a result, one table per evaluation that has any.

    Args:
      result: what `result.json` holds, see `evaluate.run.evaluate_sets`. A file written before
        there were "evaluations" has its scores under their keys alone, which then are the labels.
    """
    found = result.get("evaluations")
    if found is None:
        rows = [
            {"key": key, "label": key.replace("_", " "), **part}
            for key, part in result.items()
            if isinstance(part, dict) and "mean" in part
        ]
        found = [{"title": "test accuracy", "rows": rows}]
    return [_table(part["title"], part["rows"]) for part in found if part["rows"]]


def _table(title: str, measured: list[dict[str, Any]]) -> ResultTable:
    rows = [
        _row(part["key"] + suffix, part["label"] + suffix, part, prefix)
        for prefix, suffix in (("", ""), ("top5_", ", top 5"))
        for part in measured
        if part.get(f"{prefix}mean") is not None
    ]
    counts = {part.get("n") for part in measured}
    count = counts.pop() if len(counts) == 1 else None
    networks = "1 network" if count == 1 else f"mean ± std of {count} networks" if count else ""
    images = {part.get("test_images") for part in measured}
    if networks and len(images) == 1 and (number := images.pop()):
        networks += f" on {number:,} test images"
    if any("standard_error" in part for part in measured):
        networks += "; of AUCs: mean ± standard error"
    return ResultTable(title, networks, tuple(rows), point_curves(title, measured))


def _row(key: str, label: str, part: dict[str, Any], prefix: str = "") -> ResultRow:
    std = part.get("standard_error", part.get(f"{prefix}std"))
    single = part.get("n") == 1 and "standard_error" not in part
    known = std is not None and math.isfinite(std) and not single
    names = ("row", "column", "unit", "lower_is_better")
    position = {name: part[name] for name in names if name in part}
    if prefix and "row" in position:
        position["row"] += ", top 5"
    return ResultRow(key, label, part[f"{prefix}mean"], std if known else None, **position)


def format_table(result: dict[str, Any]) -> str:
    """The result as aligned plain text for the terminal, without a final newline."""
    tables = result_tables(result)
    if not tables:
        return _NOTHING if result else "no result yet"
    return "\n\n".join(_aligned(table) for table in tables)


def _aligned(table: ResultTable) -> str:
    grid = grid_of(table.rows)
    if grid is not None:
        head = ", ".join(part for part in (table.title, table.networks, "in %") if part)
        return f"{head}\n{text_grid(grid)}"
    labels = max(len(row.label) for row in table.rows)
    values = max(len(row.text()) for row in table.rows)
    head = table.title + (f", {table.networks}" if table.networks else "")
    lines = [f"  {row.label:<{labels}}  {row.text():>{values}}" for row in table.rows]
    return "\n".join([head, *lines])


def write_report(
    path: str | Path,
    *,
    title: str,
    result: dict[str, Any],
    metrics: list[dict[str, Any]],
    galleries: list[tuple[int, Path]],
    times: dict[str, str],
    operative_config: str,
    paths: dict[str, str],
    evaluated: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    about: dict[str, str] | None = None,
) -> None:
    """Writes one HTML page that needs no other file, no network and no script.

    The page of an unfinished run says so and shows what has been written so far.

    Args:
      path: the page to write; an existing one is replaced.
      title: what was run, such as the name of the recipe.
      result: see `result_tables`; also read: "steps", "seconds", "config_sha256", "selected_step",
        "selected_by" and "held_out_images". {} where the run has not finished.
      metrics: logged rows, each with "step"; every other key may be missing.
      galleries: (outer step, PNG file) pairs in any order.
      times: how its time was spent, see `export.account`.
      operative_config: the configuration the run used, shown as it is.
      paths: files of the run by what they hold, such as {"distilled set": "export/distilled.npz"}.
      evaluated: what `evaluation.json` holds, the scores of `frepo-scale evaluate`.
      environment: versions and devices by name, see `export.account`.
      about: what was run, such as data set, seed and version; shown first.

    Raises:
      InputError: a gallery cannot be read, or `path` cannot be written.
    """
    random_real = (result.get("random_real") or {}).get("mean")
    curves = [("Loss", loss_curve(metrics)), ("Accuracy", accuracy_curve(metrics, random_real))]
    page = fill_page(
        title=title,
        headline=_headline(result, metrics),
        sections=[
            ("Run", definitions(about or {})),
            *result_sections(result),
            *evaluated_sections(evaluated),
            ("Distilled images", _final_gallery(galleries, result.get("selected_step"))),
            ("During training", _strip(galleries)),
            ("Training", _figures(curves)),
            ("Time", definitions(times)),
            ("Environment", definitions(environment or {})),
            ("Files", file_links(paths)),
            ("Configuration", operative_section(operative_config)),
        ],
    )
    with whole_file(path) as file:
        # Class names may contain characters of file names that are not UTF-8.
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def _headline(result: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    # Only `accuracy` puts its scores under their keys alone.
    scores = {
        key: _row(key, "", result[key]) for key in _IN_HEADLINE if "mean" in (result.get(key) or {})
    }
    if "distilled" in scores:
        others = [
            f"{name} {scores[key].text()}"
            for key, name in _IN_HEADLINE.items()
            if name and key in scores
        ]
        text = (
            f"<b>{scores['distilled'].text()}</b> test accuracy for new networks trained on the "
            "distilled set alone"
        )
        return text + ("; " + ", ".join(others) if others else "") + "."
    if result_tables(result):
        return "<strong>Finished.</strong>"
    if result:
        return f"<strong>Finished</strong>; {_NOTHING}."
    logged = [row for row in metrics if row.get("step") is not None]
    if not logged:
        return "<strong>No result yet.</strong> This run has not logged a step."
    done = max(row["step"] for row in logged)
    text = f"<strong>No result yet.</strong> This run has not finished: {done:,} outer steps so far"
    probes = [row for row in logged if row.get("probe_accuracy") is not None]
    if probes:
        last = max(probes, key=lambda row: row["step"])
        score = ResultRow("", "", last["probe_accuracy"], last.get("probe_accuracy_std"))
        text += f"; the probe at step {last['step']:,} reads {score.text()}"
    return text + "."


def evaluated_sections(evaluated: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Headings and HTML of what `frepo-scale evaluate` has found; empty without it."""
    return _sections(result_tables(evaluated or {}), " (frepo-scale evaluate)")


def result_sections(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Headings and HTML of all tables and figures of a result."""
    facts, sections = _facts(result), _sections(result_tables(result))
    if not sections:
        return [("Result", facts)]
    return [(sections[0][0], sections[0][1] + facts), *sections[1:]]


def _sections(tables: list[ResultTable], suffix: str = "") -> list[tuple[str, str]]:
    """A heading and a figure for each evaluation."""
    return [
        (t.title[:1].upper() + t.title[1:] + suffix, t.curves + figure(t.rows, t.networks))
        for t in tables
    ]


def _facts(result: dict[str, Any]) -> str:
    facts = {}
    if (steps := result.get("steps")) is not None:
        facts["outer steps"] = f"{steps:,}"
    if (seconds := result.get("seconds")) is not None:
        facts["time until the final evaluation"] = duration(seconds)
    if share := result.get("ridge_raised_share"):
        facts["ridge raised"] = f"in {100 * share:.0f} % of the logged steps"
    if share := result.get("implicit_dropped_share"):
        facts["implicit gradient dropped"] = f"in {100 * share:.2g} % of the steps"
    if (selected := result.get("selected_step")) is not None:
        by = result.get("selected_by")
        held_out = result.get("held_out_images")
        how = f", best on {held_out:,} held-out images" if by == "held-out" and held_out else ""
        facts["exported step"] = f"{selected:,}{how}"
    if digest := result.get("config_sha256"):
        facts["configuration"] = digest[:12]
    return definitions(facts)


def _final_gallery(galleries: list[tuple[int, Path]], selected: int | None) -> str:
    if not galleries:
        return '<p class="none">No gallery has been saved yet.</p>'
    steps = dict(sorted(galleries))
    # The exported step if it has a picture, else the latest.
    step = selected if selected in steps else max(steps)
    what = "The exported set" if step == selected else "The latest picture"
    image = embed(_read(steps[step]), f"distilled images after {step:,} outer steps")
    return f'<figure class="large">{image}<figcaption>{what}, step {step:,}</figcaption></figure>'


def _strip(galleries: list[tuple[int, Path]]) -> str:
    ordered = sorted(galleries)
    if len(ordered) < 2:
        return ""
    count = min(_MOST_SNAPSHOTS, len(ordered))
    chosen = [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]
    figures = [
        f"<figure>{embed(_thumbnail(file), f'distilled images after {step:,} outer steps')}"
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step, file in chosen
    ]
    # tabindex lets the keyboard scroll the strip.
    return f'<div class="strip" tabindex="0">{"".join(figures)}</div>'


def _read(file: Path) -> bytes:
    try:
        content = read_bytes(file)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{file}: cannot be read ({reason})", "a gallery PNG") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{file}: not a PNG file", "a gallery PNG")
    return content


def _thumbnail(file: Path) -> bytes:
    from PIL import Image

    content = _read(file)
    try:
        image = Image.open(io.BytesIO(content))
        image.thumbnail(_THUMBNAIL, Image.Resampling.BOX)
    except (OSError, SyntaxError) as error:  # how Pillow reports a damaged PNG
        raise InputError(f"{file}: damaged ({error})", "a gallery PNG") from error
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def _figures(curves: list[tuple[str, str]]) -> str:
    parts = [
        f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in curves if svg
    ]
    if not parts:
        return '<p class="none">Nothing has been logged yet.</p>'
    return f'<div class="curves">{"".join(parts)}</div>'
