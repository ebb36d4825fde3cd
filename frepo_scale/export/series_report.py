"""The result of a series of runs: for the terminal, and as one HTML page."""

from html import escape

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.paths import is_file
from frepo_scale.export.account import account, surroundings
from frepo_scale.export.fragments import definitions, operative_section
from frepo_scale.export.page import fill_page
from frepo_scale.export.report import evaluated_sections, format_table, result_sections
from frepo_scale.export.result_file import read_result
from frepo_scale.export.run_report import read_evaluation, read_text
from frepo_scale.ops.goodput import read_ledger
from frepo_scale.ops.workdir import Workdir


def write_series_report(workdir: Workdir, name: str) -> None:
    """Writes `report.html` of a series from what it has written so far.

    The pages of its runs are linked, not contained: they have their own galleries and curves.
    """
    result = read_result(workdir.result) if is_file(workdir.result) else {}
    runs, history = result.get("series", {}), read_ledger(workdir.ledger)
    done = f"<b>{len(runs)}</b> runs, evaluated together." if runs else "Not finished."
    page = fill_page(
        title=name,
        headline=f"A series of distilled sets. {done}",
        sections=[
            *(result_sections(result) if result else []),
            *evaluated_sections(read_evaluation(workdir)),
            ("Runs", _links(runs)),
            ("Time of the evaluation", definitions(account(history))),
            ("Environment of the evaluation", definitions(surroundings(history))),
            ("Files", definitions(_paths(workdir), code=True)),
            ("Configuration", operative_section(read_text(workdir.operative_config))),
        ],
    )
    with whole_file(workdir.report) as file:
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def _links(runs: dict[str, str]) -> str:
    rows = [
        f'<div><dt>{escape(what)}</dt><dd><a href="{escape(name)}/report.html">{escape(name)}</a>'
        "</dd></div>"
        for name, what in runs.items()
    ]
    return f'<dl class="files">{"".join(rows)}</dl>' if rows else ""


def print_series(workdir: Workdir, heading: str = "") -> None:
    """Prints the tables of a finished series and the paths of its files."""
    print(heading + "\n" + format_table(read_result(workdir.result)) + "\n")
    for what, path in _paths(workdir).items():
        print(f"{what:14} {path}")


def _paths(workdir: Workdir) -> dict[str, str]:
    return {
        "result": str(workdir.result),
        "report": str(workdir.report),
        "runs": str(workdir.root / "part_*"),
    }
