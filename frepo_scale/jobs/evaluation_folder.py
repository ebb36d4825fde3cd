"""The folder that keeps the evaluation of a set outside of a workdir.

It has the files that an evaluation writes into a workdir, under the same names: `identity.json`
(which set, which settings), `evaluate_progress.json` (finished nets) and `evaluation.json` (the
result). `judged.npz` is the set as pixels, for `frepo-scale compare`.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import differences
from frepo_scale.core.paths import children, is_file, is_folder, is_local, read_bytes
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.export.run_report import write_text
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.share import on_first

JUDGED = "judged.npz"
_SET = "set_sha256"  # the key of the identity that tells it from that of a run
_FIX = "choose another folder with --out"


def folder_of(target: Path) -> Path:
    """The default folder of a set: beside it, `set.npz.evaluation` for `set.npz`."""
    if is_local(target) and target.name in ("", ".."):
        target = Path(os.path.abspath(target))
    return target.parent / f"{target.name}.evaluation"


def set_sha256(arrays: Iterable[np.ndarray | None], told: str = "") -> str:
    """A fingerprint of a set.

    Args:
      arrays: its images and labels as its file holds them.
      told: what the user said about it.
    """
    digest = hashlib.sha256(told.encode())
    for array in arrays:
        if array is not None:
            digest.update(f"{array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fingerprint_of(export: Export) -> str:
    """The fingerprint of an export or of the set of a run."""
    return set_sha256((export.images, export.labels, export.hard_labels))


def open_evaluation(
    folder: Path, sha256: str, settings: dict[str, Any], defaults: dict[str, Any], judged: Export
) -> Workdir:
    """Creates the folder, or checks that an existing one is of this evaluation.

    Args:
      folder: its path.
      sha256: of the set.
      settings: on which the measurements depend.
      defaults: a setting that an earlier version did not have counts as its default.
      judged: the set.

    Returns:
      The paths of its files.

    Raises:
      InputError: it cannot be written, or contains something else or another evaluation.
    """
    workdir = Workdir(folder)
    identity = settings | {_SET: sha256}

    def opened() -> None:
        known = _identity(workdir)
        changed = [] if known is None else differences(known, identity, defaults)
        if changed:
            raise InputError(
                f"{folder} holds another evaluation: " + "; ".join(changed),
                "the same set and settings",
                _FIX,
            )
        try:
            if known is None:
                text = json.dumps(identity, indent=1, sort_keys=True)
                write_text(workdir.identity, text + "\n")
            if not is_file(folder / JUDGED):
                write_npz(folder / JUDGED, _as_pixels(judged))
        except InputError as error:
            raise InputError(error.what, "a folder you may write to", _FIX) from error

    on_first(opened)
    return workdir


def _identity(workdir: Workdir) -> dict[str, Any] | None:
    """The identity of the evaluation in a folder; None for a new or empty one."""
    folder = workdir.root
    if is_file(folder):
        raise InputError(f"{folder} is a file", "a folder of an evaluation, or a new path", _FIX)
    try:
        names = [path.name for path in children(folder)] if is_folder(folder) else []
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{folder} cannot be read ({reason})", "a readable folder", _FIX
        ) from error
    if all(name.startswith(".partial-") for name in names):
        return None
    try:
        recorded = json.loads(read_bytes(workdir.identity))
    except (OSError, ValueError, RecursionError):
        recorded = None
    if not isinstance(recorded, dict) or _SET not in recorded:
        raise InputError(
            f"{folder} contains files that are not of an evaluation",
            "a folder that frepo-scale evaluate has written, an empty one or a new path",
            _FIX,
        )
    return recorded


def is_of(folder: Path, sha256: str) -> bool:
    """Whether the evaluation in a folder is of the set with this fingerprint."""
    known = _identity(Workdir(folder))
    return known is not None and known[_SET] == sha256


def _as_pixels(export: Export) -> Export:
    """The set with pixels in place of net inputs, without the whitening, which may be large."""
    channels = export.images.shape[-1]
    unit = np.ones(channels, np.float32)
    return replace(
        export,
        images=np.asarray(export.preprocessing.invert(export.images), np.float32),
        preprocessing=Preprocessing(0 * unit, unit, None),
    )
