"""The outer step of a recipe on devices that are not on this machine; no data are read."""

from collections.abc import Sequence
from pathlib import Path

import jax

from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import default_settings, scientific_settings, settings_sha256
from frepo_scale.data.sources import spec_for
from frepo_scale.distill.registry import build_algorithm
from frepo_scale.jobs.run import build_run, problem_of
from frepo_scale.jobs.settings import Recipe, RunConfig
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import build_mesh
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.runtime import is_first
from frepo_scale.plan.compile import compile_outer_step
from frepo_scale.plan.overview import overview


def dry_run(recipe: Recipe, root: Path) -> None:
    """Builds everything, prints the settings and what they need; trains and writes nothing.

    Raises:
      InputError: the recipe, a setting, the data or the devices are wrong.
    """
    settings, workdir = scientific_settings(recipe.config), Workdir(root)
    workdir.check_identity(settings, default_settings(recipe.config))
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        run = build_run(recipe)
    if is_first():
        print(recipe.operative)
        print(overview(run.algorithm, run.dataset))
        print(
            f"config_sha256 {settings_sha256(settings)}; workdir {workdir.root}; dry run: nothing"
            " was trained."
        )


def compile_recipe(config: RunConfig, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The compiled outer step of a recipe on these devices.

    Raises:
      InputError: the devices do not suit the recipe, or its data set has no fixed shape.
    """
    spec = spec_for(config.data.name)
    side = config.data.resolution or spec.resolution
    if spec.num_classes is None or side is None or spec.channels is None:
        raise InputError(
            f"DATASET = {spec.name!r}", "a data set whose classes and shape are known beforehand"
        )
    shape = (side, side, spec.channels)
    problem = problem_of(config, build_mesh(config.mesh, devices), spec.num_classes, shape)
    algorithm = build_algorithm(config.algorithm, problem)
    with pinned(), matmul_precision(config.distill.matmul_precision):
        return compile_outer_step(algorithm, shape, spec.num_classes)
