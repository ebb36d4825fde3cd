"""Results that are points of curves, as text, HTML and figure."""

import re

import pytest

from frepo_scale.export.grids import grid_section, grid_text, grids
from frepo_scale.export.report import format_table, result_sections, result_tables


def row(curve, x, mean, **more):
    return {
        "key": f"{curve}_{x}",
        "label": curve,
        "mean": mean,
        "n": 5,
        "curve": curve,
        "x": x,
    } | more


RESULT = {
    "evaluations": [
        {
            "name": "continual",
            "title": "test accuracy",
            "x_label": "classes seen",
            "rows": [
                row("distilled <sets>", 20, 0.615, std=0.0125),
                row("distilled <sets>", 40, 0.5, std=0.02),
                row("random", 40, 0.25, std=0.0),
            ],
        }
    ]
}
ERRORS = {
    "evaluations": [
        {
            "title": "AUC",
            "x_label": "updates",
            "rows": [row(f"attack {n}", x, 0.5, std=0.2, standard_error=0.01)
                     for n in range(10) for x in (100, 16000)],
        }
    ]
}  # fmt: skip


def test_a_grid_has_one_line_per_curve():
    (grid,) = grids(RESULT)
    lines = grid_text(grid).split("\n")
    assert lines[0] == "test accuracy in %, mean ± std of 5 networks, by classes seen"
    assert [line.split() for line in lines[1:]] == [
        ["20", "40"],
        ["distilled", "<sets>", "61.5", "±", "1.2", "50.0", "±", "2.0"],
        ["random", "25.0", "±", "0.0"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1  # aligned at the right
    assert format_table(RESULT) == grid_text(grid)


def test_points_are_in_no_other_table():
    assert result_tables(RESULT) == []
    ((heading, html),) = result_sections(RESULT)
    assert heading == "Test accuracy"
    assert html.count("<svg ") == 1 and "Result" not in heading
    one = {"key": "a", "label": "A", "mean": 0.5, "std": 0.1, "n": 1}
    both = {"evaluations": [*RESULT["evaluations"], {"title": "other", "rows": [one]}]}
    assert [table.title for table in result_tables(both)] == ["other"]
    assert len(result_sections(both)) == 2
    assert format_table(both).count("\n\n") == 1


def test_the_table_of_the_page_has_every_number_and_escapes_labels():
    _, html = grid_section(grids(RESULT)[0])
    assert "distilled &lt;sets&gt;" in html and "<sets>" not in html
    cells = re.findall(r'<td class="value">([^<]*)</td>', html)
    assert cells == ["61.5 ± 1.2", "50.0 ± 2.0", "", "25.0 ± 0.0"]
    assert re.findall(r'<th scope="col" class="value">([^<]*)</th>', html) == ["20", "40"]


def test_a_known_standard_error_stands_for_the_std():
    (grid,) = grids(ERRORS)
    assert grid.spread == "standard error of 5 networks"
    assert grid.cells("attack 0") == ["50.0 ± 1.0"] * 2
    svg = grid_section(grid)[1]
    assert svg.count("stroke-dasharray") > 0  # the sixth curve and those after it
    assert ">16000<" in svg and ">updates<" in svg


@pytest.mark.parametrize("result", [{}, {"evaluations": None}, {"evaluations": []}])
def test_a_result_without_points_has_no_grid(result):
    assert grids(result) == []
