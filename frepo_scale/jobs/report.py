"""`frepo-scale report`: writes the report of a run from its files so far."""

from pathlib import Path

from frepo_scale.export.run_report import print_account, write_run_report
from frepo_scale.export.series_report import write_series_report
from frepo_scale.jobs.workdirs import existing_workdir, is_series, recipe_text


def report(path: Path) -> None:
    """Writes `report.html` and prints how the time was spent.

    Raises:
      InputError: `path` is no workdir of a run, or a file in it is damaged.
    """
    workdir = existing_workdir(path)
    write = write_series_report if is_series(path) else write_run_report
    write(workdir, recipe_text(path)[0])
    print_account(workdir)
    print(f"written to {workdir.report}")
