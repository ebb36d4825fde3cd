"""`frepo-scale plan --compile`: the compiled step is left where `distill` loads it."""

import os
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import default_settings, scientific_settings
from frepo_scale.core.paths import is_local
from frepo_scale.data.placement import Room, choose_placement
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.ops.programs import store_program
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.loading import CannotLoadError, serialised
from frepo_scale.parallel.target import target_of
from frepo_scale.plan.subject import Subject
from frepo_scale.train.ahead import FOLDER, OUTER_STEP, text_sha256
from frepo_scale.train.calls import most_steps
from frepo_scale.train.config import LoopConfig


def check_workdir(root: Path, config: RunConfig) -> None:
    """Checks, before anything is compiled, that programs of a recipe can be left in a workdir.

    Raises:
      InputError: it belongs to another run or cannot be written, or the recipe is a series.
    """
    if config.series.by is not None:
        raise InputError(
            f"--compile {root} of a series of runs",
            "a recipe of one run",
            "leave --compile out: each run of a series has its own workdir",
        )
    try:
        Workdir(root).check_identity(scientific_settings(config), default_settings(config))
    except InputError as error:
        fix = error.fix.replace("with --workdir", "with --compile")  # this command's option
        raise InputError(error.what, error.expected, fix) from error
    if is_local(root):
        existing = next(path for path in (root, *root.absolute().parents) if path.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise InputError(
                f"--compile {root}: {existing} cannot be written",
                "a workdir, or the path of a new one, that you may write to",
            )


def flags_to_load(subject: Subject, loop: LoopConfig, placement: str, platform: str) -> str:
    """What to add to `distill` so that it runs the stored step, which takes one batch per call; ""
    where it does so anyway.

    Args:
      subject: the recipe.
      loop: its loop.
      placement: of the target images in a run on the hardware.
      platform: of the hardware.

    Raises:
      InputError: as `train.calls.most_steps`.
    """
    if not most_steps(loop.steps_per_call, placement, platform):
        return ""
    # Where they would be if the devices had no room for them.
    pixels = (subject.images or 0) * subject.pixels
    other = choose_placement("auto", pixels, subject.prepared, Room("cpu", 0))
    single = " --gin.STEPS_PER_CALL=0" if loop.steps_per_call > 1 else ""
    return f" --gin.DATA_PLACEMENT={other}{single}"


def keeper(
    root: Path,
    hardware: str,
    lowered: jax.stages.Lowered,
    mesh: Mesh,
    say: Callable[[str], None],
    command: str,
) -> Callable[[jax.stages.Compiled], None]:
    """A function that stores the compiled program of a lowered step.

    Args:
      root: the workdir.
      hardware: its name.
      lowered: the step.
      mesh: the devices that it is compiled for.
      say: called with one line about the file.
      command: that runs the step.
    """

    def keep(program: jax.stages.Compiled) -> None:
        try:
            data = serialised(program)
        except CannotLoadError as error:
            raise InputError(
                f"--compile {root}: the compiler for {hardware} gives no program ({error})",
                "a compiler that can store its programs",
                "leave --compile out",
            ) from error
        folder = Workdir(root).compiled / FOLDER
        target = target_of(mesh)
        path = store_program(folder, OUTER_STEP, hardware, target, text_sha256(lowered), data)
        say(
            f"the compiled step ({len(data) / 1e6:.1f} MB) is in {path}; {command} on"
            f" {hardware} loads it"
        )

    return keep
