"""Training curves as inline SVG; text and axes have the text colour of the page."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"  # replaced by the text colour of the page
_BLUE, _ORANGE, _GREEN = "#4a8fe0", "#e08a2e", "#3fa877"  # readable on white and on black
_LINES = ("-", "--", ":")
_COLOURS = (_BLUE, _ORANGE, _GREEN, "#b06bd0", "#d05b6a", "#8a8f3c", "#45a6b5", "#96704f")
_SOLID = 6  # curves before the lines are dashed
_FEW = 4  # more curves need a larger figure
_SHORT = 5  # characters per inch of a name in a legend with two columns
_LONGEST = 56  # of a name in a legend
_MOST_POINTS = 300  # more make the file larger and the curve no clearer


@dataclass(frozen=True)
class _Series:
    """Values over steps, averaged in bins: (n,) float64; `low` and `high` bound each bin."""

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def loss_curve(metrics: list[dict[str, Any]]) -> str:
    """The loss and the regression loss over steps, as one `<svg>`; "" where neither was logged."""
    total, regression = _series(metrics, "loss"), _series(metrics, "regression_loss")
    if not len(total.steps) and not len(regression.steps):
        return ""

    def draw(axes: "Axes") -> None:
        _line(axes, total, _BLUE, "loss")
        _line(axes, regression, _ORANGE, "regression loss")
        lows = [s.low.min() for s in (total, regression) if len(s.steps)]
        highs = [s.high.max() for s in (total, regression) if len(s.steps)]
        if min(lows) > 0 and max(highs) > 20 * min(lows):  # the label loss may make it negative
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")

    return _svg("loss", draw)


def accuracy_curve(metrics: list[dict[str, Any]], random_real: float | None) -> str:
    """Accuracies over steps, as one `<svg>`; "" where none was logged.

    Args:
      metrics: rows with "step" and any of "target_accuracy", "probe_accuracy" and
        "probe_accuracy_std".
      random_real: test accuracy of random real images, drawn as a horizontal line, or None.
    """
    target, probe = _series(metrics, "target_accuracy", 100), _probes(metrics)
    if not len(target.steps) and not len(probe.steps):
        return ""

    def draw(axes: "Axes") -> None:
        _line(axes, target, _BLUE, "regression, target batch")
        _line(axes, probe, _GREEN, "probe: mean ± std", marker="o", markersize=3.5)
        if random_real is not None:
            axes.axhline(
                100 * random_real, color=_INK, alpha=0.6, linestyle="--", linewidth=1.1,
                label="random real images",
            )  # fmt: skip
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")

    return _svg("accuracy", draw)


def point_curves(name: str, measured: Sequence[Mapping[str, Any]]) -> str:
    """The rows of an evaluation that are points of curves, as a figure in HTML; "" without any.

    The points have equal distances. The first six curves are solid, the next six dashed in the
    same colours, and so on.

    Args:
      name: what is measured.
      measured: rows as `result.json` has them; points have "x", "x_label" and the curve, "row".
    """
    rows = [row for row in measured if "x" in row]
    if not rows:
        return ""
    places = sorted({row["x"] for row in rows})
    curves = dict.fromkeys(row["row"] for row in rows)

    def draw(axes: "Axes") -> None:
        for number, label in enumerate(curves):
            points = [row for row in rows if row["row"] == label]
            axes.errorbar(
                [places.index(row["x"]) for row in points],
                [100 * row["mean"] for row in points],
                [100 * (row.get("standard_error", row.get("std")) or 0) for row in points],
                color=_COLOURS[number % _SOLID],
                linestyle=_LINES[number // _SOLID % len(_LINES)],
                label=label,
                linewidth=1.5,
                marker="o",
                markersize=3.5,
            )
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")

    axis = (rows[0]["x_label"], [f"{x:g}" for x in places])
    if len(curves) <= _FEW:
        return f'<div class="points">{_svg(name, draw, axis)}</div>'
    return f'<div class="points many">{_svg(name, draw, axis, (8.0, 5.2))}</div>'


def compared_curve(named: dict[str, list[dict[str, Any]]], key: str, percent: bool = True) -> str:
    """One metric of several runs over their steps, as one `<svg>`; "" where none logged it.

    Args:
      named: rows of each run, see `loss_curve`.
      key: the metric.
      percent: whether it is a fraction that is shown in percent.
    """
    factor = 100 if percent else 1
    series = {name: _series(rows, key, factor) for name, rows in named.items()}
    series = {name: found for name, found in series.items() if len(found.steps)}
    if not series:
        return ""

    def draw(axes: "Axes") -> None:
        for number, (name, found) in enumerate(series.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            shown = name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]
            # matplotlib leaves labels that begin with "_" out of the legend.
            _line(axes, found, colour, " " + shown if shown.startswith("_") else shown)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{' %' if percent else ''}")

    return _svg(key.replace("_", " "), draw)


def _series(metrics: list[dict[str, Any]], name: str, factor: float = 1.0) -> _Series:
    rows = [r for r in metrics if _finite(r.get(name)) and _finite(r.get("step"))]
    rows.sort(key=lambda r: r["step"])
    steps = np.array([r["step"] for r in rows], np.float64)
    values = factor * np.array([r[name] for r in rows], np.float64)
    bins = [b for b in np.array_split(np.arange(len(rows)), _MOST_POINTS) if len(b)]
    return _Series(
        steps=np.array([steps[b].mean() for b in bins]),
        values=np.array([values[b].mean() for b in bins]),
        low=np.array([values[b].min() for b in bins]),
        high=np.array([values[b].max() for b in bins]),
    )


def _probes(metrics: list[dict[str, Any]]) -> _Series:
    rows = [r for r in metrics if _finite(r.get("probe_accuracy"))]
    stds = [std if _finite(std := r.get("probe_accuracy_std")) else 0.0 for r in rows]
    spreads = [{"step": r.get("step"), "std": std} for r, std in zip(rows, stds, strict=True)]
    mean, std = _series(rows, "probe_accuracy", 100), _series(spreads, "std", 100)
    return _Series(mean.steps, mean.values, mean.values - std.values, mean.values + std.values)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _line(axes: "Axes", series: _Series, colour: str, label: str, **style: Any) -> None:
    if not len(series.steps):
        return
    axes.plot(series.steps, series.values, color=colour, label=label, linewidth=1.5, **style)
    if (series.low < series.high).any():
        axes.fill_between(
            series.steps, series.low, series.high, color=colour, alpha=0.22, linewidth=0
        )


def _svg(
    name: str,
    draw: Callable[["Axes"], None],
    axis: tuple[str, Sequence[str]] | None = None,
    size: tuple[float, float] = (5.2, 3.3),
) -> str:
    """A figure of some inches as one `<svg>`.

    `axis` is the label of the x axis and the texts of 0, 1, ... on it; without it x is the outer
    step.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    # With a salt equal curves give equal text and two curves have different ids. Font type
    # "none" keeps text as text.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel("outer step" if axis is None else axis[0], color=_INK)
        if axis is None:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.locator_params(axis="x", nbins=6)
        else:
            axes.set_xticks(range(len(axis[1])), axis[1])
        axes.margins(x=0.02)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.8)
        axes.tick_params(which="both", colors=_INK, length=0)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_INK)
        names = axes.get_legend_handles_labels()[1]
        columns = 2 if max(map(len, names), default=0) <= _SHORT * size[0] else 1
        if columns == 1:  # room for the further lines
            figure.set_figheight(size[1] + 0.2 * (len(names) // 2))
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, labelcolor=_INK)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    over = "outer steps" if axis is None else axis[0]
    return _inline(text.getvalue(), escape(f"{name} over {over}"))


def _inline(document: str, description: str) -> str:
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # matplotlib's style sheet would apply to the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    # Group ids such as "axes_1" would occur once per curve; nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)  # the page sets the size
    svg = svg.replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
