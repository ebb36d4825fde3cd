"""Reads the workdir of an earlier run, for the commands that need one."""

from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder, is_local
from frepo_scale.export.formats import read_npz
from frepo_scale.export.run_report import read_text
from frepo_scale.ops.workdir import Workdir

PART = "part_"  # the folders of the runs of a series begin with it
NAME_LINE = "# recipe: "  # the first line of config.gin


def existing_workdir(path: Path) -> Workdir:
    """The workdir of a run.

    Raises:
      InputError: there is none.
    """
    workdir = Workdir(path)
    if not is_file(workdir.config):
        raise InputError(
            f"{path} is not the workdir of a run", f"a folder with {workdir.config.name}"
        )
    return workdir


def finished_workdir(path: Path) -> Workdir:
    """The workdir of a run that has reached its last step.

    Raises:
      InputError: there is none.
    """
    workdir = existing_workdir(path)
    if is_series(path):
        raise InputError(
            f"{path} is the workdir of a series of runs",
            "that of one of its runs",
            f"give the workdir of a run in it, such as {path / f'{PART}00'}",
        )
    if not is_file(workdir.distilled):
        raise InputError(
            f"{path} has no {workdir.distilled.name}",
            "the workdir of a run that has reached its last step",
            "resume it with the same frepo-scale distill command first",
        )
    return workdir


def is_series(path: Path) -> bool:
    """Whether a workdir is that of a series: it has workdirs of runs."""
    return is_folder(path) and any(child.name.startswith(PART) for child in children(path))


def recipe_text(target: Path) -> tuple[str, str]:
    """Name and text of the recipe that a workdir or an export came from.

    Raises:
      InputError: it cannot be read, or holds no recipe.
    """
    if is_folder(target):
        text = read_text(existing_workdir(target).config)
        first = text.partition("\n")[0]
        if first.startswith(NAME_LINE):
            return first.removeprefix(NAME_LINE), text
        return (target.resolve() if is_local(target) else target).name, text
    provenance = read_npz(target).provenance
    if "config" not in provenance:
        raise InputError(
            f"{target} does not say which recipe made it", "an export whose provenance has a config"
        )
    return str(provenance.get("recipe", target.stem)), str(provenance["config"])
