"""Asks a run under way for a profile of its next steps."""

from pathlib import Path

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_file
from frepo_scale.ops.tensorboard import PROFILED_STEPS
from frepo_scale.ops.workdir import Workdir


def request_profile(root: Path) -> None:
    """Leaves a request in the workdir; process 0 of the run takes the profile and removes it.

    Raises:
      InputError: no run is under way in the workdir.
    """
    workdir = Workdir(root)
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
