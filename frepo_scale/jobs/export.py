"""`frepo-scale export`: writes the distilled set of a finished run for use elsewhere."""

import os
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.export.folder import write_folder
from frepo_scale.export.formats import read_npz, write_npz
from frepo_scale.export.safetensors_folder import write_safetensors
from frepo_scale.jobs.workdirs import finished_workdir


def export(path: Path, form: str, out: Path) -> None:
    """Copies the distilled set of the run in `path` to `out`, as "npz", "folder" or "safetensors".

    Raises:
      InputError: the run is not finished, `out` exists or cannot be written, or safetensors is not
        installed.
    """
    exported = read_npz(finished_workdir(path).distilled)
    if form == "npz":
        if os.path.lexists(out):
            raise InputError(f"{out} exists", "a new file", "choose another --out")
        write_npz(out, exported)
    else:
        write = {"folder": write_folder, "safetensors": write_safetensors}[form]
        write(out, exported)
    print(f"written to {out}")
