import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.export.gallery import save_gallery
from frepo_scale.export.report import format_table, result_sections, result_tables, write_report

SCORES: dict[str, dict[str, Any]] = {
    "distilled": {"mean": 0.8712, "std": 0.0081, "n": 3},
    "distilled_last": {"mean": 0.8649, "std": 0.01, "n": 3},
    "distilled_hard": {"mean": 0.79, "std": 0.012, "n": 3},
    "random_real": {"mean": 0.712, "std": 0.021, "n": 3},
    "full_data": {"mean": 0.96, "std": 0.002, "n": 3},
}


def evaluated(scores: dict[str, dict[str, Any]], **labels: str) -> dict[str, Any]:
    """The rows of the evaluation `accuracy` in result.json."""
    rows = [{"key": k, "label": labels.get(k, k), **score} for k, score in scores.items()]
    accuracy = {"name": "accuracy", "title": "test accuracy", "rows": rows}
    return scores | {"evaluations": [accuracy]}


RESULT: dict[str, Any] = {
    **evaluated(
        SCORES,
        distilled="distilled set, best on held-out images",
        distilled_last="distilled set, last step",
        random_real="random real images",
    ),
    "steps": 10000,
    "seconds": 4321.0,
    "config_sha256": "0123456789abcdef" * 4,
    "selected_step": 8000,
    "selected_by": "held-out",
    "held_out_images": 500,
}
METRICS: list[dict[str, Any]] = [
    {"step": s, "loss": 1 / (s + 1), "regression_loss": 0.5 / (s + 1), "target_accuracy": 0.5}
    for s in range(0, 40)
] + [{"step": 20, "probe_accuracy": 0.6, "probe_accuracy_std": 0.02}]
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """What a browser would see: the text, the attributes, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, tag: str, name: str) -> list[str]:
        return [v for t, n, v in self.attributes if (t, n) == (tag, name)]

    def images(self) -> list[bytes]:
        prefix = "data:image/png;base64,"
        sources = self.values("img", "src")
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source.removeprefix(prefix), validate=True) for source in sources]


def gallery(path: Path, shade: int) -> Path:
    save_gallery(path, np.full((10, 32, 32, 3), shade, np.uint8), tuple("abcdefghij"), 1)
    return path


def write(tmp_path: Path, **changes: Any) -> Page:
    inputs: dict[str, Any] = {
        "title": "digits, 1 image per class",
        "result": RESULT,
        "metrics": METRICS,
        "galleries": [],
        "times": {"goodput (steps not repeated)": "81.0 %"},
        "operative_config": "STEPS = 10000",
        "paths": {"distilled set": "export/distilled.npz"},
    }
    write_report(tmp_path / "report.html", **(inputs | changes))
    return Page(tmp_path / "report.html")


def shown(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row.label, row.text()) for table in result_tables(result) for row in table.rows]


def test_table_has_the_labels_and_order_of_the_evaluation_and_percent() -> None:
    assert shown(RESULT) == [
        ("distilled set, best on held-out images", "87.1 ± 0.8 %"),
        ("distilled set, last step", "86.5 ± 1.0 %"),
        ("distilled_hard", "79.0 ± 1.2 %"),
        ("random real images", "71.2 ± 2.1 %"),
        ("full_data", "96.0 ± 0.2 %"),
    ]


def test_what_the_guards_did_is_among_the_facts() -> None:
    shares = {"ridge_raised_share": 0.25, "implicit_dropped_share": 0.031}
    text = result_sections(RESULT | shares)[0][1]
    assert "in 25 %" in text and "in 3.1 % of the steps" in text
    assert "dropped" not in result_sections(RESULT | {"implicit_dropped_share": 0.0})[0][1]


def test_table_leaves_out_what_was_not_measured() -> None:
    assert result_tables({}) == []
    assert result_tables({"evaluations": [], "steps": 3}) == []
    one = {"distilled": {"mean": 0.5, "std": 0.0, "n": 1}}  # one network has no deviation
    assert shown(evaluated(one)) == [("distilled", "50.0 %")]
    assert shown(evaluated({"distilled": {"mean": 0.5}})) == [("distilled", "50.0 %")]


def test_top5_follows_all_of_top1() -> None:
    score = {"mean": 0.1, "std": 0.01, "top5_mean": 0.3, "top5_std": 0.02, "n": 5}
    assert shown(evaluated({"distilled": score, "random_real": score})) == [
        ("distilled", "10.0 ± 1.0 %"),
        ("random_real", "10.0 ± 1.0 %"),
        ("distilled, top 5", "30.0 ± 2.0 %"),
        ("random_real, top 5", "30.0 ± 2.0 %"),
    ]


def test_results_written_before_there_were_evaluations_are_shown() -> None:
    old = SCORES | {"steps": 3, "selected_by": "held-out"}
    assert shown(old)[:2] == [("distilled", "87.1 ± 0.8 %"), ("distilled last", "86.5 ± 1.0 %")]
    assert len(shown(old)) == 5


def test_each_evaluation_has_a_table_of_its_own(tmp_path: Path) -> None:
    row = {"key": "distilled", "label": "wide <net>", "mean": 0.25, "std": 0.5, "n": 7}
    other = {"name": "my.Own", "title": "accuracy of others", "rows": [row]}
    result = RESULT | {"evaluations": [*RESULT["evaluations"], other]}
    assert [table.networks for table in result_tables(result)] == [
        "mean ± std of 3 networks",
        "mean ± std of 7 networks",
    ]
    assert format_table(result).split("\n\n") == [
        format_table(RESULT),
        "accuracy of others, mean ± std of 7 networks\n  wide <net>  25.0 ± 50.0 %",
    ]
    page = write(tmp_path, result=result)
    assert "Accuracy of others" in page.text and "wide <net> 25.0 ± 50.0 %" in page.text
    assert "87.1 ± 0.8 % test accuracy for new networks" in page.text  # not the other "distilled"
    alone = write(tmp_path, result={"evaluations": [other]})
    assert "Finished." in alone.text and "test accuracy for new networks" not in alone.text


def test_terminal_table_is_aligned() -> None:
    lines = format_table(RESULT).splitlines()
    assert lines[0] == "test accuracy, mean ± std of 3 networks"
    assert lines[1] == "  distilled set, best on held-out images  87.1 ± 0.8 %"
    assert len(lines) == 6 and len({len(line) for line in lines[1:]}) == 1
    assert format_table({}) == "no result yet"


def test_page_says_the_result_first(tmp_path: Path) -> None:
    page = write(tmp_path)
    text = page.text
    assert "87.1 ± 0.8 % test accuracy for new networks trained on the distilled set alone" in text
    assert "random real images give 71.2 ± 2.1 %, the full training set gives 96.0" in text
    assert text.index("87.1 ± 0.8 %") < text.index("Test accuracy")
    for row in shown(RESULT):
        assert " ".join(row) in text
    assert "mean ± std of 3 networks" in text
    assert "outer steps 10,000" in text
    assert "time until the final evaluation 1 h 12 min" in text
    assert "8,000, best on 500 held-out images" in text and "0123456789ab" in text
    assert "distilled set export/distilled.npz" in text and "STEPS = 10000" in text
    assert page.source.count("<svg") == 2 and "stroke-dasharray" in page.source


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (61, "1 min 1 s"), (7199.7, "2 h 0")])
def test_times_are_readable(tmp_path: Path, seconds: float, text: str) -> None:
    assert (
        f"time until the final evaluation {text}"
        in write(tmp_path, result=RESULT | {"seconds": seconds}).text
    )


def test_bars_are_proportional_from_zero(tmp_path: Path) -> None:
    result = evaluated(
        {
            "distilled": {"mean": 0.06, "std": 0.02, "n": 2},
            "random_real": {"mean": 0.02, "std": 0.0, "n": 2},
        }
    )
    styles = write(tmp_path, result=result).values("i", "style")
    assert styles == ["width:75.00%", "left:50.00%;width:50.00%", "width:25.00%"]


def test_page_needs_no_other_files(tmp_path: Path) -> None:
    files = [(s, gallery(tmp_path / f"{s}.png", s)) for s in (1, 2)]
    page = write(tmp_path, galleries=files)
    for tag, name, value in page.attributes:
        if tag == "a" and name == "href":  # a link beside the page, which nothing loads by itself
            assert re.fullmatch(r"[\w.%-]+", value)
            continue
        if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
            assert value.startswith(("data:image/png;base64,", "#"))
    addresses = set(re.findall(r"https?://[^\"'\s<]+", page.source))
    assert addresses == {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "<script" not in page.source and "@import" not in page.source
    assert not re.findall(r"url\((?!#)", page.source)
    policy = page.values("meta", "content")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    assert "width=device-width, initial-scale=1" in policy
    assert "prefers-color-scheme: dark" in page.source


def test_the_time_by_category_is_shown(tmp_path: Path) -> None:
    assert "goodput (steps not repeated) 81.0 %" in write(tmp_path).text


def test_all_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('&amp;\"')</script>"
    page = write(
        tmp_path,
        title=f"t{evil}",
        operative_config=f"c{evil}\n",
        paths={f"k{evil}": f"v{evil}", "name \udcff": "x"},
        result=RESULT | {"config_sha256": "<i>"},
    )
    assert "<script" not in page.source
    for letter in "tckv":
        assert letter + evil in page.text
    assert page.source.count("&lt;script") == 5  # the title twice
    assert "<dd>&lt;i&gt;</dd>" in page.source


def test_exported_gallery_is_the_large_one(tmp_path: Path) -> None:
    files = [(s, gallery(tmp_path / f"{s}.png", s // 100)) for s in (9000, 8000, 10000)]
    page = write(tmp_path, galleries=files)
    assert page.images()[0] == (tmp_path / "8000.png").read_bytes()
    assert "The exported set, step 8,000" in page.text
    page = write(tmp_path, galleries=files, result=RESULT | {"selected_step": 8500})
    assert page.images()[0] == (tmp_path / "10000.png").read_bytes()
    assert "The latest picture, step 10,000" in page.text


def test_snapshots_are_few_even_small_and_in_order(tmp_path: Path) -> None:
    file = gallery(tmp_path / "g.png", 100)
    page = write(tmp_path, galleries=[(s, file) for s in range(2200, -1, -100)])
    steps = [
        int(s.replace(",", "")) for s in re.findall(r"<figcaption>step ([\d,]+)<", page.source)
    ]
    assert steps == [0, 300, 600, 900, 1300, 1600, 1900, 2200]
    for png in page.images()[1:]:
        with Image.open(io.BytesIO(png)) as image:
            assert image.width <= 440 and image.height <= 640
    assert page.values("img", "alt")[-1] == "distilled images after 2,200 outer steps"
    two = write(tmp_path, galleries=[(s, file) for s in (0, 100)])
    assert len(two.images()) == 3
    one = write(tmp_path, galleries=[(0, file)])
    assert len(one.images()) == 1 and "During training" not in one.text


def test_a_run_that_has_not_finished_says_so(tmp_path: Path) -> None:
    page = write(tmp_path, result={}, paths={}, operative_config="")
    assert "No result yet. This run has not finished: 39 outer steps so far" in page.text
    assert "the probe at step 20 reads 60.0 ± 2.0 %." in page.text
    for heading in ("Test accuracy", "Files", "Configuration", "During training"):
        assert heading not in page.text
    page = write(tmp_path, result={}, metrics=[])
    assert "No result yet. This run has not logged a step." in page.text
    assert "No gallery has been saved yet." in page.text
    assert "Nothing has been logged yet." in page.text
    incomplete = [{}, {"step": 3}, {"probe_accuracy": 0.5}, {"step": 1, "probe_accuracy": 0.5}]
    page = write(tmp_path, result={}, metrics=incomplete)
    assert "3 outer steps so far; the probe at step 1 reads 50.0 %." in page.text


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    files = [(s, gallery(tmp_path / f"{s}.png", s)) for s in (1, 2)]
    assert write(tmp_path, galleries=files).source == write(tmp_path, galleries=files).source


def test_a_bad_gallery_is_named_and_the_old_page_stays(tmp_path: Path) -> None:
    old = write(tmp_path).source
    good = gallery(tmp_path / "good.png", 7)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:150])
    for name, message in (("none", "No such file"), ("text", "not a PNG"), ("half", "damaged")):
        with pytest.raises(InputError, match=rf"{name}\.png: .*{message}"):
            write(tmp_path, galleries=[(1, good), (2, tmp_path / f"{name}.png")])
    assert Page(tmp_path / "report.html").source == old
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_an_unwritable_page_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write(tmp_path)


def test_points_of_curves_are_a_figure_and_a_table() -> None:
    rows = [
        {
            "key": f"{curve}_{x}",
            "label": str(curve),
            "mean": 0.5,
            "std": 0.2,
            "n": 5,
            "row": f"{curve} <set>",
            "column": str(x),
            "x": x,
            "x_label": "updates",
        }
        | ({"standard_error": 0.01} if curve > 0 else {})
        for curve in range(7)
        for x in (100, 16000)
    ]
    result = {"evaluations": [{"title": "AUC", "rows": rows}]}
    ((_, html),) = result_sections(result)
    assert html.count("<svg ") == 1 and "<set>" not in html
    assert ">16000<" in html and ">updates<" in html
    assert html.count("stroke-dasharray: 5") > 0  # the seventh curve
    lines = format_table(result).split("\n")
    assert lines[0] == "AUC, mean ± std of 5 networks; of AUCs: mean ± standard error, in %"
    assert lines[2].split() == ["0", "<set>", "50.0", "±", "20.0", "50.0", "±", "20.0"]
    assert lines[7].split() == ["5", "<set>", "50.0", "±", "1.0", "50.0", "±", "1.0"]


def test_what_was_run_comes_first_and_files_are_links(tmp_path: Path) -> None:
    page = write(
        tmp_path, about={"seed": "3", "data set": "<digits>"}, paths={"result": "a b/result.json"}
    )
    assert page.text.index("seed 3") < page.text.index("outer steps")
    assert "&lt;digits&gt;" in page.source
    assert page.values("a", "href") == ["result.json"]
