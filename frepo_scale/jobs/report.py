"""`frepo-scale report`: writes the report of a run from its files so far."""

from pathlib import Path

from frepo_scale.export.run_report import print_account, write_run_report
from frepo_scale.jobs.workdirs import existing_workdir, recipe_text


def report(path: Path) -> None:
    """Writes `report.html` and prints how the time was spent.

    Raises:
      InputError: `path` is no workdir of a run, or a file in it is damaged.
    """
    workdir = existing_workdir(path)
    write_run_report(workdir, recipe_text(path)[0])
    print_account(workdir)
    print(f"written to {workdir.report}")
