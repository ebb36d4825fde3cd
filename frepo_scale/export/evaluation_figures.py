"""The scores of an evaluation as bars, or with two axes as a heat map and as plain text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol


class Shown(Protocol):
    """A score as `report.ResultRow` has it; the positions are from `evaluate.Measurement`."""

    @property
    def key(self) -> str:
        """Its name in `result.json`."""

    @property
    def label(self) -> str:
        """What was measured."""

    @property
    def row(self) -> str:
        """Its row in a table with two axes; "" if there is none."""

    @property
    def column(self) -> str:
        """Its column there."""

    @property
    def mean(self) -> float:
        """A fraction in [0, 1] as a rule; differences may be negative."""

    @property
    def std(self) -> float | None:
        """Over the nets, if it is known."""

    def text(self) -> str:
        """Such as "87.1 ± 0.8 %"."""


@dataclass(frozen=True)
class Grid:
    """Scores by row and column.

    Attributes:
      rows: names of the rows, in order.
      columns: names of the columns, in order.
      cells: the scores by position; a position may be empty.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Shown]


def grid_of(scores: Sequence[Shown]) -> Grid | None:
    """The scores as a grid; None unless all have positions, which differ."""
    cells = {(score.row, score.column): score for score in scores}
    if len(cells) < len(scores) or not all(row and column for row, column in cells):
        return None
    return Grid(_distinct(row for row, _ in cells), _distinct(column for _, column in cells), cells)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def text_grid(grid: Grid) -> str:
    """Aligned plain text with a line of column names; values without their percent signs."""
    lines = [["", *grid.columns]]
    lines += [[row, *(_value(grid, row, column) for column in grid.columns)] for row in grid.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  " + "  ".join(line) for line in aligned)


def figure(scores: Sequence[Shown], caption: str) -> str:
    """HTML: a heat map of scores that have positions, else bars.

    Args:
      scores: at least one.
      caption: plain text, such as "mean ± std of 5 networks".
    """
    grid = grid_of(scores)
    return _bars(scores, caption) if grid is None else heat_map(grid, caption)


def _bars(scores: Sequence[Shown], caption: str) -> str:
    # Bars start at 0 and the longest is the best score, so lengths are proportional.
    full = max(max(score.mean + (score.std or 0) for score in scores), 1e-9)
    rows = []
    for score in scores:
        low, high = score.mean - (score.std or 0), score.mean + (score.std or 0)
        spread = (
            f'<i class="std" style="left:{_percent(low / full)};'
            f'width:{_percent((high - low) / full)}"></i>'
            if score.std
            else ""
        )
        kind = "ours" if score.key.startswith(("distilled", "set")) else "other"
        rows.append(
            f'<tr class="{kind}"><th scope="row">{escape(score.label)}</th><td class="bar"><div>'
            f'<i class="mean" style="width:{_percent(score.mean / full)}"></i>{spread}</div></td>'
            f'<td class="value">{score.text()}</td></tr>'
        )
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<table class="result">{note}<tbody>{"".join(rows)}</tbody></table>'


def _percent(fraction: float) -> str:
    return f"{100 * min(max(fraction, 0.0), 1.0):.2f}%"


def heat_map(grid: Grid, caption: str) -> str:
    """An HTML table whose cells are shaded from the lowest to the highest score.

    The numbers are in the cells, so that nothing depends on the shades.

    Args:
      grid: the scores.
      caption: plain text, such as "mean ± std of 5 networks".
    """
    means = [cell.mean for cell in grid.cells.values()]
    low, span = min(means), max(max(means) - min(means), 1e-9)
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in grid.columns)
    body = []
    for row in grid.rows:
        cells = []
        for column in grid.columns:
            cell = grid.cells.get((row, column))
            shade = 0.0 if cell is None else 8 + 62 * (cell.mean - low) / span
            cells.append(f'<td style="--shade:{shade:.0f}%">{_value(grid, row, column)}</td>')
        # Narrow screens may break the name of a net and its settings.
        name = re.sub("([/_=])", r"\1<wbr>", escape(row))
        body.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>')
    note = ", ".join(part for part in (caption, "in %") if part)
    return (
        f'<div class="wide" tabindex="0"><table class="heat"><caption>{escape(note)}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _value(grid: Grid, row: str, column: str) -> str:
    cell = grid.cells.get((row, column))
    return "" if cell is None else cell.text().removesuffix(" %")
