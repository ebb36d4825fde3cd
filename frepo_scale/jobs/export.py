"""`frepo-scale export`: writes the distilled set of a finished run for use elsewhere."""

import os
from dataclasses import replace
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_file
from frepo_scale.export.folder import write_folder
from frepo_scale.export.formats import Export, read_npz, write_npz
from frepo_scale.export.result_file import LATER, read_result
from frepo_scale.export.run_report import read_evaluation
from frepo_scale.export.safetensors_folder import write_safetensors
from frepo_scale.jobs.exported import measured, measured_later, portable
from frepo_scale.jobs.workdirs import finished_workdir
from frepo_scale.ops.workdir import Workdir


def export(path: Path, form: str, out: Path) -> None:
    """Copies the distilled set of the run in `path` to `out`, as "npz", "folder" or "safetensors".

    Raises:
      InputError: the run is not finished, `out` exists or cannot be written, or safetensors is not
        installed.
    """
    exported = _completed(finished_workdir(path))
    if form == "npz":
        if os.path.lexists(out):
            raise InputError(f"{out} exists", "a new file", "choose another --out")
        write_npz(out, exported)
    else:
        write = {"folder": write_folder, "safetensors": write_safetensors}[form]
        write(out, exported)
    print(f"written to {out}")


def _completed(workdir: Workdir) -> Export:
    """The set of a run, with what `frepo-scale evaluate` has found since.

    Of a run by an earlier version without its paths and with its accuracies.
    """
    exported = read_npz(workdir.distilled)
    provenance = exported.provenance
    if "config" in provenance:
        provenance = provenance | {"config": portable(str(provenance["config"]))}
    results = exported.results
    if not results and is_file(workdir.result):
        result = read_result(workdir.result)
        results = measured(result, result.get("selected_by") or "")
    if later := read_evaluation(workdir):
        results = results | {LATER: measured_later(later)}
    return replace(exported, provenance=provenance, results=results)
