import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from frepo_scale.export.curves import _probes, _series, _svg, accuracy_curve, loss_curve

NAN = float("nan")


def texts(svg: str) -> list[str]:
    return [
        "".join(e.itertext()).strip()
        for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_nothing_logged_is_no_curve() -> None:
    nothing: list[list[dict[str, Any]]] = [
        [],
        [{"step": 1}],
        [{"loss": 1.0, "target_accuracy": 1.0}],
        [{"step": 2, "loss": NAN, "target_accuracy": None}],
    ]
    for metrics in nothing:
        assert loss_curve(metrics) == ""
        assert accuracy_curve(metrics, 0.5) == ""


def test_each_quantity_has_its_legend() -> None:
    row = {"step": 1, "loss": 0.5, "regression_loss": 0.4, "target_accuracy": 0.3}
    probe = {"step": 1, "probe_accuracy": 0.4, "probe_accuracy_std": 0.1}
    assert {"loss", "regression loss", "outer step"} <= set(texts(loss_curve([row])))
    assert "regression loss" not in texts(loss_curve([{"step": 1, "loss": 0.5}]))
    both = texts(accuracy_curve([row, probe], 0.2))
    assert {"regression, target batch", "probe: mean ± std", "random real images"} <= set(both)
    assert [t for t in both if re.fullmatch(r"[\d.]+ %", t)]  # the axis is in percent
    assert "random real images" not in texts(accuracy_curve([row], None))
    assert "probe: mean ± std" not in texts(accuracy_curve([row], 0.2))


def test_the_level_of_random_images_is_dashed() -> None:
    row = {"step": 1, "target_accuracy": 0.3}
    assert "stroke-dasharray" in accuracy_curve([row], 0.2)
    assert "stroke-dasharray" in accuracy_curve([row], 0.0)
    assert "stroke-dasharray" not in accuracy_curve([row], None)


@pytest.mark.parametrize(("lowest", "logarithmic"), [(0.001, True), (0.3, False), (-0.1, False)])
def test_losses_over_a_wide_range_are_drawn_on_a_log_axis(lowest: float, logarithmic: bool) -> None:
    svg = loss_curve([{"step": s, "loss": x} for s, x in ((0, 1.0), (1, lowest))])
    assert ("0.01" in texts(svg), "0.4" in texts(svg)) == (logarithmic, not logarithmic)


def test_series_are_sorted_thinned_and_bounded() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    rows = [{"step": s, "loss": v} for s, v in enumerate(values)]
    series = _series([*reversed(rows), {"step": 10, "loss": NAN}, {"step": 11}], "loss", 2)
    assert len(series.steps) == 300 and (np.diff(series.steps) > 0).all()
    assert (series.low <= series.values).all() and (series.values <= series.high).all()
    assert series.low.min() == 2 * values.min() and series.high.max() == 2 * values.max()
    np.testing.assert_allclose(series.values[0], 2 * values[:17].mean())
    short = _series(rows[:5], "loss")
    np.testing.assert_array_equal(short.values, values[:5])
    np.testing.assert_array_equal(short.low, short.high)


def test_the_probe_band_is_one_std_and_missing_stds_are_none() -> None:
    rows = [{"step": 1, "probe_accuracy": 0.5, "probe_accuracy_std": 0.1}]
    rows += [{"step": s, "probe_accuracy": 0.5} for s in (2, 3)]
    rows += [{"step": 3.5}, {"step": 4, "probe_accuracy": 0.5, "probe_accuracy_std": NAN}]
    band = _probes(rows)
    np.testing.assert_allclose(band.low, [40, 50, 50, 50])
    np.testing.assert_allclose(band.high, [60, 50, 50, 50])


def test_svg_is_the_same_each_time_and_fits_into_a_page() -> None:
    metrics = [{"step": s, "loss": 1 / (s + 1), "target_accuracy": s / 50} for s in range(50)]
    loss, accuracy = loss_curve(metrics), accuracy_curve(metrics, 0.5)
    assert (loss, accuracy) == (loss_curve(metrics), accuracy_curve(metrics, 0.5))
    for svg in (loss, accuracy):
        assert svg.startswith("<svg ") and svg.endswith("</svg>")
        assert "<style" not in svg and "<metadata" not in svg and "#010203" not in svg
        assert "currentColor" in svg and "viewBox" in svg
        assert not re.search(r'<svg[^>]* (width|height)="', svg)
        addresses = set(re.findall(r'https?://[^"\s]+', svg))
        assert addresses == {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
        ids = re.findall(r' id="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)} <= set(
            ids
        )


def test_ids_of_two_curves_differ() -> None:
    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], marker="o", label="x")

    first, second = (set(re.findall(r' id="([^"]+)"', _svg(name, draw))) for name in "ab")
    assert first and second and not first & second
