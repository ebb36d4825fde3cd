"""Asks a run under way for a profile of its next steps."""

from pathlib import Path

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import children, is_file, is_folder
from frepo_scale.ops.tensorboard import PROFILED_STEPS
from frepo_scale.ops.workdir import PART, Workdir


def request_profile(root: Path) -> None:
    """Leaves a request in the workdir; process 0 of the run takes the profile and removes it.

    Raises:
      InputError: no run is under way in the workdir.
    """
    workdir = Workdir(root)
    found = children(workdir.root) if is_folder(workdir.root) else []
    parts = [path for path in found if path.name.startswith(PART)]
    under_way = [path for path in parts if is_file(Workdir(path).lock)]
    if under_way and not is_file(workdir.lock):
        raise InputError(
            f"{workdir.root} is the workdir of a series",
            "the workdir of the run of it that is training now",
            f"use {under_way[0]}",
        )
    if not is_file(workdir.lock):
        raise InputError(
            f"no run is under way in {workdir.root}",
            "the workdir of a run that is training now",
            "start it first, or use --gin.PROFILE_AT=10 from its start",
        )
    with whole_file(workdir.profile_request) as file:
        file.write(b"")
    print(
        f"requested: the next {PROFILED_STEPS} steps appear in {workdir.tensorboard} and are shown"
        f" by launch/tensorboard.sh {workdir.root}"
    )
