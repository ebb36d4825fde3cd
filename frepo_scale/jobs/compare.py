"""`frepo-scale compare`: several runs, exports and sets that were evaluated, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_file, is_folder, is_local
from frepo_scale.export.any_set_folders import read_folder
from frepo_scale.export.compare import ComparedSet, compared_table, write_comparison
from frepo_scale.export.folder import DATASET, PIXELS
from frepo_scale.export.formats import Export, read_npz
from frepo_scale.export.result_file import LATER, read_metrics, read_result, wrong_value
from frepo_scale.export.run_report import read_evaluation
from frepo_scale.jobs.evaluation_folder import JUDGED, fingerprint_of, folder_of, is_of
from frepo_scale.jobs.workdirs import is_own, read_own, recipe_text
from frepo_scale.ops.workdir import Workdir

FORMS = (
    "the workdir of a finished run, an export (.npz, folder or safetensors), or a set of another"
    " program that frepo-scale evaluate has measured, or the folder of its --out"
)


def compare(paths: Sequence[Path], out: Path) -> None:
    """Prints the accuracies of several sets and writes a page with table, curves and images.

    Args:
      paths: see `FORMS`; at least two.
      out: the HTML page; an existing one is replaced.

    Raises:
      InputError: fewer than two sets, one is given twice, damaged or of no such form, or `out`
        cannot be written.
    """
    if len(paths) < 2:
        raise InputError(f"compare with {len(paths)} set(s)", f"at least two, each {FORMS}")
    if is_folder(out):
        raise InputError(f"--out {out} is a folder", "the name of an HTML file")
    _check_different(paths)
    found = [_read(path) for path in paths]
    names = _names(paths, [name for name, _ in found])
    sets = [ComparedSet(name, *read) for name, (_, read) in zip(names, found, strict=True)]
    print(compared_table(sets))
    write_comparison(out, sets)
    print(f"written to {out}")


def _check_different(paths: Sequence[Path]) -> None:
    whole = [_whole(path) for path in paths]
    for path, one in zip(paths, whole, strict=True):
        if whole.count(one) > 1:
            raise InputError(f"{path} is given twice", "each set once")


def _whole(path: Path) -> Path:
    return path.resolve() if is_local(path) else path


def _names(paths: Sequence[Path], names: list[str]) -> list[str]:
    """The given names; where these are not different, the ends of the paths that are."""
    whole = [_whole(path) for path in paths]
    for last in range(1, max(len(path.parts) for path in whole)):
        if len(set(names)) < len(names):
            names = ["/".join(path.parts[-last:]) for path in whole]
    return names if len(set(names)) == len(names) else [str(path) for path in whole]


# Name, and the other fields of a `ComparedSet`.
_Found = tuple[str, tuple[Export, dict[str, Any], list[dict[str, Any]], dict[str, Any]]]


def _read(path: Path) -> _Found:
    """A set in any of the forms, with what was measured of it."""
    metrics: list[dict[str, Any]] = []
    if is_own(path):
        name, export, workdir = recipe_text(path)[0], read_own(path), Workdir(path)
        if is_folder(path) and is_file(workdir.config):
            evaluated, metrics = read_evaluation(workdir) or {}, read_metrics(workdir.metrics)
            result = read_result(workdir.result) if is_file(workdir.result) else export.results
        else:
            evaluated, result = _beside(path, export), export.results
    elif is_folder(path) and is_file(path / DATASET) and is_file(path / PIXELS):
        name, export = path.name, read_folder(path)
        evaluated, result = _evaluation(folder_of(path)) or {}, export.results
    else:
        name, folder = path.name, path if is_file(path / JUDGED) else folder_of(path)
        if not (is_file(path) or is_folder(path)):
            raise InputError(f"{path} does not exist", FORMS, "check the path")
        if not is_file(folder / JUDGED):
            raise InputError(
                f"{path} cannot be compared",
                FORMS,
                "of a set of another program: frepo-scale evaluate PATH --dataset NAME first",
            )
        judged = _evaluation(folder)
        if judged is None:
            raise InputError(
                f"{folder} has no {Workdir(folder).evaluation.name}",
                "an evaluation that has finished",
                "give its frepo-scale evaluate command again",
            )
        export, evaluated = read_npz(folder / JUDGED), judged
        result = export.results
    wrong = wrong_value(result)
    if wrong is not None:
        raise InputError(f"{path}: in the results of the export {wrong}", "as export wrote it")
    # An export holds what was measured of its run before it was written.
    return name, (export, result, metrics, evaluated or result.get(LATER) or {})


def _evaluation(folder: Path) -> dict[str, Any] | None:
    """The result in the folder of an evaluation; None where there is none."""
    return read_evaluation(Workdir(folder))


def _beside(path: Path, export: Export) -> dict[str, Any]:
    """The result in the default folder of an export; {} where there is none."""
    folder = folder_of(path)
    found = _evaluation(folder)
    if found is not None and not is_of(folder, fingerprint_of(export)):
        raise InputError(
            f"{folder} is the evaluation of another set than {path}",
            "that of this set, or none",
            "move it away, and evaluate the set again",
        )
    return found or {}
