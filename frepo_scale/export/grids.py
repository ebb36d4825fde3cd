"""Results that are points of curves: a grid with one line per curve, and a figure."""

from dataclasses import dataclass
from html import escape
from typing import Any

from frepo_scale.export.curves import point_curves


@dataclass(frozen=True)
class Grid:
    """The rows of one table of a result whose rows have "curve" and "x".

    Attributes:
      title: what was measured.
      x_label: what x is.
      spread: what stands behind the sign ±.
      curves: label to the points: x to (value, spread), as fractions.
    """

    title: str
    x_label: str
    spread: str
    curves: dict[str, dict[float, tuple[float, float]]]

    @property
    def places(self) -> list[float]:
        """Every x, ascending."""
        return sorted({x for points in self.curves.values() for x in points})

    def cells(self, label: str) -> list[str]:
        """The texts of a curve at every place, such as "87.1 ± 0.8"; "" where it has no point."""
        points = self.curves[label]
        return [
            f"{100 * points[x][0]:.1f} ± {100 * points[x][1]:.1f}" if x in points else ""
            for x in self.places
        ]


def grids(result: dict[str, Any]) -> list[Grid]:
    """The tables of a result (see `evaluate.run.evaluate_sets`) whose rows are points of curves."""
    return [
        _grid(part)
        for part in result.get("evaluations") or []
        if any("x" in row for row in part["rows"])
    ]


def _grid(part: dict[str, Any]) -> Grid:
    rows = [row for row in part["rows"] if "x" in row]
    curves: dict[str, dict[float, tuple[float, float]]] = {}
    for row in rows:
        bar = row.get("standard_error", row.get("std")) or 0.0
        curves.setdefault(row["curve"], {})[row["x"]] = (row["mean"], bar)
    known = all("standard_error" in row for row in rows)
    counts = {row.get("n") for row in rows}
    networks = f" of {counts.pop()} networks" if len(counts) == 1 else ""
    spread = f"{'standard error' if known else 'std'}{networks}"
    return Grid(part["title"], part.get("x_label", ""), spread, curves)


def grid_text(grid: Grid) -> str:
    """A grid as aligned plain text for the terminal, without a final newline."""
    lines = [["", *(f"{x:g}" for x in grid.places)]]
    lines += [[label, *grid.cells(label)] for label in grid.curves]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    head = f"{grid.title} in %, mean ± {grid.spread}, by {grid.x_label}"
    rows = [
        f"  {line[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]
    return "\n".join([head, *rows])


def grid_section(grid: Grid) -> tuple[str, str]:
    """Heading and HTML of a grid: its figure, and its numbers as a table."""
    figure = point_curves(grid.title, grid.x_label, grid.curves)
    head = "".join(f'<th scope="col" class="value">{x:g}</th>' for x in grid.places)
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f'<td class="value">{cell}</td>' for cell in grid.cells(label))
        + "</tr>"
        for label in grid.curves
    )
    caption = f"%, mean ± {grid.spread}, by {grid.x_label}"
    table = (
        f'<div class="wide" tabindex="0"><table class="result"><caption>{escape(caption)}</caption>'
        f'<thead><tr><th scope="col">{escape(grid.x_label)}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    heading = grid.title[:1].upper() + grid.title[1:]
    return heading, f'<figure class="points">{figure}</figure>{table}'
