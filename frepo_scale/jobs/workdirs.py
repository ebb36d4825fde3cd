"""Reads the workdir of an earlier run, for the commands that need one."""

import json
import zipfile
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder, is_local, open_to_read
from frepo_scale.core.versions import PACKAGE
from frepo_scale.export.folder import DATASET
from frepo_scale.export.formats import Export, checked_description, read_npz
from frepo_scale.export.run_report import read_text
from frepo_scale.export.safetensors_folder import CONFIG, IMAGES, read_config, read_safetensors
from frepo_scale.ops.workdir import PART, Workdir

NAME_LINE = "# recipe: "  # the first line of config.gin
MAKER_LINE = "# made by frepo-scale "  # the second one, with the version


def existing_workdir(path: Path) -> Workdir:
    """The workdir of a run.

    Raises:
      InputError: there is none.
    """
    workdir = Workdir(path)
    if not is_file(workdir.config):
        missing = is_local(path) and not (is_folder(path) or is_file(path))
        what = "does not exist" if missing else "is not the workdir of a run"
        raise InputError(
            f"{path} {what}",
            f"the workdir of a run, a folder with {workdir.config.name}",
            "give the folder that was its --workdir, or runs/RECIPE",
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


def is_own(target: Path) -> bool:
    """Whether a path is a workdir, or an export that holds net inputs and preprocessing."""
    if is_folder(target):
        workdir = Workdir(target)
        return any(map(is_file, (workdir.config, workdir.distilled, target / IMAGES)))
    if not is_file(target):
        return target.suffix == ".npz"  # which `read_npz` reports as missing
    try:
        with open_to_read(target) as file, zipfile.ZipFile(file) as archive:
            return "meta.npy" in archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return target.suffix == ".npz"  # damaged, which `read_npz` reports


def read_own(target: Path) -> Export:
    """The set of a finished run, of an .npz export or of a safetensors folder.

    Raises:
      InputError: it is missing, damaged or not finished.
    """
    if not is_folder(target):
        return read_npz(target)
    if is_file(target / IMAGES):
        return read_safetensors(target)
    return read_npz(finished_workdir(target).distilled)


def recipe_text(target: Path) -> tuple[str, str]:
    """Name and text of the recipe that a workdir or an export came from.

    Raises:
      InputError: it cannot be read, or holds no recipe.
    """
    if is_folder(target) and is_own(target) and not is_file(target / IMAGES):
        text = read_text(existing_workdir(target).config)
        first = text.partition("\n")[0]
        if first.startswith(NAME_LINE):
            return first.removeprefix(NAME_LINE), text
        return (target.resolve() if is_local(target) else target).name, text
    provenance = _provenance(target)
    if "config" not in provenance:
        raise InputError(
            f"{target} does not say which recipe made it",
            "the workdir of a run, or an export whose provenance has a config",
            "name the data set that the set was made from with --dataset",
        )
    versions = provenance.get("versions")
    maker = versions.get(PACKAGE, "") if isinstance(versions, dict) else ""
    name, text = str(provenance.get("recipe", target.stem)), str(provenance["config"])
    return name, f"{MAKER_LINE}{maker}\n{text}" if maker else text


def _provenance(target: Path) -> dict[str, Any]:
    """Where an export comes from; {} for files of other programs."""
    found: dict[str, Any] = {}
    if is_folder(target):
        if is_file(target / CONFIG):
            found = read_config(target)["provenance"]
        elif is_file(target / DATASET):
            found = _dataset_json(target / DATASET)["provenance"]
    elif is_own(target):
        found = read_npz(target).provenance
    return found


def _dataset_json(path: Path) -> dict[str, Any]:
    try:
        return checked_description(str(path), json.loads(read_text(path)))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error})", "JSON as export wrote it") from error
