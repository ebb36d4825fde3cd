"""Scores as bars, as a heat map and as a table with two axes."""

import re

import pytest

from frepo_scale.export.evaluation_figures import figure, grid_of, heat_map, text_grid
from frepo_scale.export.report import ResultRow, format_table, result_tables


def row(net, what, mean, **given):
    return ResultRow(f"{net} {what}", f"{net}, {what}", mean, 0.01, net, what, **given)


ROWS = [
    row("convnet/none", "distilled set", 0.5),
    row("convnet/none", "hard labels", 0.3),
    row("resnet18/batch", "distilled set", 0.4),
]


def test_positions_make_a_grid_and_an_empty_one_stays_empty():
    grid = grid_of(ROWS)
    assert grid.rows == ("convnet/none", "resnet18/batch")
    assert grid.columns == ("distilled set", "hard labels")
    assert text_grid(grid).splitlines() == [
        "                  distilled set  hard labels",
        "  convnet/none       50.0 ± 1.0   30.0 ± 1.0",
        "  resnet18/batch     40.0 ± 1.0             ",
    ]


def test_without_positions_or_with_equal_ones_there_is_none():
    assert grid_of([*ROWS, ResultRow("x", "x", 0.1, None)]) is None
    assert grid_of([*ROWS, ROWS[0]]) is None
    assert 'class="result"' in figure([ResultRow("x", "x", 0.1, None)], "")


def test_the_heat_map_shades_from_the_lowest_to_the_highest():
    html = heat_map(grid_of(ROWS), "mean ± std of 5 networks")
    cells = re.findall(r'--shade:(\d+)%">([^<]*)</td>', html)
    assert cells == [("70", "50.0 ± 1.0"), ("8", "30.0 ± 1.0"), ("39", "40.0 ± 1.0"), ("0", "")]
    assert "mean ± std of 5 networks, in %" in html
    assert figure(ROWS, "mean ± std of 5 networks") == html


def test_names_are_escaped():
    html = heat_map(grid_of([row("<b>", "a&b", 0.5)]), "<i>")
    assert "&lt;b&gt;" in html and "a&amp;b" in html and "<i>" not in html


def result(rows):
    return {"evaluations": [{"name": "x", "title": "several nets", "rows": rows}]}


def stored(net, what, **given):
    where = {"row": net, "column": what}
    return {"key": net + what, "label": f"{net}, {what}", "mean": 0.5, "std": 0.1, "n": 3} | (
        where | given
    )


def test_the_table_of_the_terminal_has_two_axes():
    text = format_table(result([stored("a", "x"), stored("a", "y"), stored("b", "x")]))
    assert text.splitlines() == [
        "several nets, mean ± std of 3 networks, in %",
        "               x            y",
        "  a  50.0 ± 10.0  50.0 ± 10.0",
        "  b  50.0 ± 10.0             ",
    ]


def test_the_table_says_on_how_many_test_images_it_was_measured():
    rows = [stored("a", "x", test_images=1000), stored("b", "x", test_images=1000)]
    first = "several nets, mean ± std of 3 networks on 1,000 test images, in %"
    assert format_table(result(rows)).splitlines()[0] == first
    rows[1]["test_images"] = 500
    assert "test images" not in format_table(result(rows))


def test_top5_accuracies_have_rows_of_their_own():
    rows = [stored("a", "x", top5_mean=0.9, top5_std=0.0), stored("b", "x", top5_mean=0.8)]
    (table,) = result_tables(result(rows))
    assert grid_of(table.rows).rows == ("a", "b", "a, top 5", "b, top 5")


@pytest.mark.parametrize(
    ("unit", "std", "text"),
    [("%", 0.0131, "41.2 ± 1.3 %"), ("", 0.0131, "0.412 ± 0.013"), ("", None, "0.412")],
)
def test_scores_without_a_unit_are_shown_as_they_are(unit, std, text):
    assert ResultRow("lrs", "LRS", 0.4123, std, unit=unit).text() == text
    part = {"key": "lrs", "label": "LRS", "mean": 0.4123, "std": std, "n": 3, "unit": unit}
    assert text in format_table(result([part]))


def test_differences_may_be_negative():
    html = figure([ResultRow("hlr", "HLR", -0.02, 0.01), ResultRow("b", "b", -0.1, None)], "")
    assert "-2.0 ± 1.0 %" in html and "width:0.00%" in html
