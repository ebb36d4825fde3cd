"""`frepo-scale compare`: several runs or exports side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_file, is_folder, is_local
from frepo_scale.export.compare import ComparedSet, compared_table, write_comparison
from frepo_scale.export.result_file import read_metrics, read_result, wrong_value
from frepo_scale.jobs.workdirs import is_own, read_own, recipe_text
from frepo_scale.ops.workdir import Workdir


def compare(paths: Sequence[Path], out: Path) -> None:
    """Prints the accuracies of several sets and writes a page with table, curves and images.

    Args:
      paths: workdirs of finished runs, or exports (.npz, or a safetensors folder); at least two.
      out: the HTML page; an existing one is replaced.

    Raises:
      InputError: fewer than two sets, one is given twice, is damaged or no export, or `out` cannot
        be written.
    """
    if len(paths) < 2:
        raise InputError(f"compare with {len(paths)} set(s)", "at least two workdirs or exports")
    if is_folder(out):
        raise InputError(f"--out {out} is a folder", "the name of an HTML file")
    sets = [_compared(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    print(compared_table(sets))
    write_comparison(out, sets)
    print(f"written to {out}")


def _names(paths: Sequence[Path]) -> list[str]:
    """The recipes' names; where these are not different, the ends of the paths that are."""
    for path in paths:
        if not is_own(path):
            raise InputError(f"{path} is no workdir and no export", "a finished run or an export")
    whole = [path.resolve() if is_local(path) else path for path in paths]
    for path, one in zip(paths, whole, strict=True):
        if whole.count(one) > 1:
            raise InputError(f"{path} is given twice", "each set once")
    names = [recipe_text(path)[0] for path in paths]
    for last in range(1, max(len(path.parts) for path in whole)):
        if len(set(names)) < len(names):
            names = ["/".join(path.parts[-last:]) for path in whole]
    return names if len(set(names)) == len(names) else [str(path) for path in whole]


def _compared(path: Path, name: str) -> ComparedSet:
    export, workdir = read_own(path), Workdir(path)
    result: dict[str, Any] = export.results
    wrong = wrong_value(result)
    if wrong is not None:
        raise InputError(f"{path}: in the results of the export {wrong}", "as export wrote it")
    in_workdir = is_folder(path) and is_file(workdir.config)
    if in_workdir and is_file(workdir.result):
        result = read_result(workdir.result)
    return ComparedSet(name, export, result, read_metrics(workdir.metrics) if in_workdir else [])
