"""Reads the workdir of an earlier run, for the commands that need one."""

from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_file, is_folder, is_local
from frepo_scale.core.versions import PACKAGE
from frepo_scale.export.formats import read_npz
from frepo_scale.export.run_report import read_text
from frepo_scale.ops.workdir import Workdir

NAME_LINE = "# recipe: "  # the first line of config.gin
MAKER_LINE = "# made by frepo-scale "  # the second one, with the version


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
    if not is_file(workdir.distilled):
        raise InputError(
            f"{path} has no {workdir.distilled.name}",
            "the workdir of a run that has reached its last step",
            "resume it with the same frepo-scale distill command first",
        )
    return workdir


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
    versions = provenance.get("versions")
    maker = versions.get(PACKAGE, "") if isinstance(versions, dict) else ""
    name, text = str(provenance.get("recipe", target.stem)), str(provenance["config"])
    return name, f"{MAKER_LINE}{maker}\n{text}" if maker else text
