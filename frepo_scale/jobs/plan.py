"""`frepo-scale plan`: a recipe on hardware that need not be here. No data are read."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import default_settings, scientific_settings, settings_sha256
from frepo_scale.distill.registry import build_algorithm
from frepo_scale.jobs.ahead import check_workdir
from frepo_scale.jobs.machine import memory_line, plan_here
from frepo_scale.jobs.net_files import with_fingerprints
from frepo_scale.jobs.plan_options import GivenSizes, PlanOptions, check, device_counts
from frepo_scale.jobs.planner import Planner, machines
from frepo_scale.jobs.run import build_run, problem_of
from frepo_scale.jobs.series_runs import runs_of
from frepo_scale.jobs.settings import Recipe, RunConfig, SeriesConfig
from frepo_scale.jobs.subject import check_batch, macros_of, sizes_of_data, varied
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.determinism import make_deterministic
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import build_mesh, platform_of
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.runtime import is_first
from frepo_scale.plan import report
from frepo_scale.plan.check import read_check
from frepo_scale.plan.compile import compile_outer_step
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.overview import overview
from frepo_scale.plan.subject import Subject


def plan(recipe: Recipe, options: PlanOptions) -> None:
    """Prints plans of a recipe.

    Raises:
      InputError: the recipe, the hardware or an option is wrong.
    """
    options = replace(options, overrides=macros_of(options.overrides))
    check(options)
    # Plans are made for other devices; those of this machine may be in use.
    jax.config.update("jax_platforms", "cpu")
    if options.compile is not None:
        recipe = with_fingerprints(recipe)  # they are part of the identity of a workdir
    config, notes = recipe.config, []
    if options.compile is not None:
        check_workdir(options.compile, config)
        if config.mesh.deterministic:
            make_deterministic(None)  # as `distill` does; XLA reads its flags once
    if config.series.by is not None:
        runs = runs_of(config)
        notes = [f"a series of {len(runs)} runs: the numbers are those of one of them"]
        config = replace(config, data=runs[0].data, series=SeriesConfig())
    shape, classes = sizes_of_data(config, options.given)
    check_batch(config)
    hardware = machines(options)
    vary = varied(recipe.name, config, shape, classes)
    measured = None if options.measured is None else read_check(options.measured)
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        # All of them before the first is printed or written: an error is then the only output.
        planners = [
            Planner(config, options, vary, machine, shape, classes, notes) for machine in hardware
        ]
        if measured is not None:
            for planner in planners:
                planner.compare(measured)
        if options.scale is not None:
            planners[0].add_scaling(_scale(recipe.name, vary, hardware[0], options))
        if options.write is not None:
            planners[0].write(options.write)
    if options.json:
        print(json.dumps([planner.result() for planner in planners], indent=1))
    else:
        print("\n\n".join(planner.text() for planner in planners))


def _scale(
    name: str,
    vary: Callable[[Mapping[str, Any]], Subject],
    hardware: Hardware,
    options: PlanOptions,
) -> dict[str, Any]:
    """Draws the figure; returns its path and its numbers."""
    from frepo_scale.plan.scaling import as_json, draw, strong, weak

    counts = device_counts(options.scale or "")
    path = options.png or Path(f"{name}_{hardware.chip.name}_scaling.png")
    found = {
        "strong": strong(vary({}), hardware, counts),
        "weak": weak(vary, hardware, counts),
    }
    titles = {"strong": "strong scaling: the recipe", "weak": "weak scaling: members grow"}
    shown = {titles[name]: plans for name, plans in found.items() if plans}
    if not shown:
        raise InputError(
            f"--scale {options.scale}: no mesh of so many devices suits {name}",
            "numbers of devices that MEMBERS and BATCH divide over",
        )
    if not all(math.isfinite(plan.seconds) for plans in shown.values() for plan in plans):
        raise InputError(
            f"--scale {options.scale}: the time of {name} on {hardware.chip.title} is not known",
            "an algorithm that states its operations, in a precision that the chip has",
            "leave --scale out: the plan says what is missing",
        )
    draw(path, f"{name} on {hardware.chip.title}", shown)
    numbers = {name: [as_json(plan) for plan in plans] for name, plans in found.items()}
    return {"figure": str(path.absolute()), **numbers}


def dry_run(recipe: Recipe, root: Path) -> None:
    """Builds everything, prints the settings and what they need; trains and writes nothing.

    Raises:
      InputError: the recipe, a setting, the data or the devices are wrong.
    """
    recipe = with_fingerprints(recipe)
    settings, workdir = scientific_settings(recipe.config), Workdir(root)
    workdir.check_identity(settings, default_settings(recipe.config))
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        run = build_run(recipe)
        needs, here = memory_line(run), plan_here(run)
    if is_first():
        print(recipe.operative)
        print(overview(run.algorithm, run.dataset))
        if needs:
            print(needs)
        if here is not None:
            print(f"\n{report.text(here)}\n")
        elif platform_of(run.mesh) == "cpu":
            print(f"time and memory of a step: frepo-scale plan {recipe.name} --on cpu")
        print(
            f"config_sha256 {settings_sha256(settings)}; workdir {workdir.root}; dry run: nothing"
            " was trained."
        )


def compile_recipe(config: RunConfig, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The compiled outer step of a recipe on these devices.

    Raises:
      InputError: the devices do not suit the recipe, or its data set has no fixed shape.
    """
    shape, classes = sizes_of_data(config, GivenSizes())
    problem = problem_of(config, build_mesh(config.mesh, devices), classes, shape)
    algorithm = build_algorithm(config.algorithm, problem)
    with pinned(), matmul_precision(config.distill.matmul_precision):
        return compile_outer_step(algorithm, shape, classes)
