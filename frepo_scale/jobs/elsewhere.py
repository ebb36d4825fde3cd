"""Checks a recipe for devices that this machine does not have, before they are asked for."""

from dataclasses import replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import default_settings, scientific_settings
from frepo_scale.core.paths import to_path
from frepo_scale.data.loading import data_path
from frepo_scale.data.placement import Room, choose_placement
from frepo_scale.data.settings import IMAGES
from frepo_scale.data.sources import spec_for
from frepo_scale.data.sources.registry import own_source
from frepo_scale.distill.frozen import check_frozen
from frepo_scale.distill.registry import algorithm_class, build_algorithm
from frepo_scale.evaluate.registry import load_evaluations
from frepo_scale.jobs.net_files import with_fingerprints, with_nets
from frepo_scale.jobs.published import check_published
from frepo_scale.jobs.run import problem_of, task_of
from frepo_scale.jobs.series_runs import runs_of
from frepo_scale.jobs.series_scores import of_a_series
from frepo_scale.jobs.settings import Recipe, RunConfig, SeriesConfig
from frepo_scale.jobs.subject import subject_of, varied
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import DATA, POOL, build_mesh, check_sizes
from frepo_scale.parallel.pinned import pinned
from frepo_scale.plan import report
from frepo_scale.plan.accelerator_types import slice_of
from frepo_scale.plan.hardware import Hardware, parse_hardware
from frepo_scale.plan.plan import make_plan, placement_of
from frepo_scale.plan.search import advice, smallest_change
from frepo_scale.train.calls import most_steps


def check_elsewhere(recipe: Recipe, devices: str, workdir: str | None = None) -> None:
    """Checks everything in a recipe that can be checked without its devices; reads no data.

    Nets and algorithm are built on virtual devices of this machine's CPU, so it must be called
    before any device is used. Evaluations check themselves as in a run, with the number and the
    placement of the images as far as they are known before the data are read. Where the shape of
    the images is not known from the recipe, nets, algorithm and these checks are left out. Files of
    `POOL_WEIGHTS` are read if they are here. Of a named hardware the plan is printed, the first
    run's of a series, and a step must fit into its devices by the estimate of `plan --quick`.

    Args:
      recipe: what would run.
      devices: of all machines: their number, or the hardware, such as "v5e:4x4" or "v5litepod-16".
        Of a number the memory of the devices is not known: a large prepared set then counts as one
        that the devices do not hold.
      workdir: of the run; None: it is not checked.

    Raises:
      InputError: the recipe or a setting is wrong, or does not suit these devices, or the workdir
        is one of another run.
    """
    hardware, count = _devices(devices)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    check_recipe(recipe, build_mesh(recipe.config.mesh), hardware)
    if workdir is not None:
        _check_workdir(recipe, workdir)
    print(f"{recipe.name} suits {count} devices; its data were not read and nothing was trained.")


def check_recipe(recipe: Recipe, mesh: Mesh, hardware: Hardware | None = None) -> None:
    """As `check_elsewhere`.

    Args:
      recipe: what would run.
      mesh: of the other devices.
      hardware: what they are; None: only their number is known.

    Raises:
      InputError: the recipe or a setting is wrong, or does not suit these devices.
    """
    config = recipe.config
    check_frozen(config.pool)
    algorithm_class(config.algorithm)
    load_evaluations(config.evaluation.evaluations)
    _check_source(config)
    missing = [path for path in config.pool.weights if not Path(path).expanduser().is_file()]
    if missing:
        print(f"POOL_WEIGHTS: {missing[0]} is not on this machine: these files are not checked")
    else:
        with_fingerprints(recipe)
    with pinned(), matmul_precision(config.distill.matmul_precision):
        parts = _parts(config)
        for part in parts:
            _check_run(part, mesh, hardware, not missing)
        if config.series.by is not None:
            _check_evaluations(config, parts[0], hardware, not missing)
        if hardware is not None:
            _check_fits(recipe.name, parts[0], mesh, hardware)


def _devices(text: str) -> tuple[Hardware | None, int]:
    """The hardware, None where only a number is given, and the number of devices."""
    if text.isdecimal() and text.isascii():
        if not 1 <= int(text) <= 2**16:
            raise InputError(f"--devices {text}", "a number from 1 to 65536")
        return None, int(text)
    try:
        hardware = parse_hardware(slice_of(text))
    except InputError as error:
        what = f"--devices {error.what.removeprefix('--on ')}"
        fix = error.fix.replace("--on ", "--devices ")
        raise InputError(what, f"a number of devices, or {error.expected}", fix) from error
    return hardware, hardware.devices


def _check_workdir(recipe: Recipe, text: str) -> None:
    """A run with other settings in the workdir is refused, where this machine can read it."""
    try:
        root, recipe = to_path(text), with_fingerprints(recipe)
    except InputError as error:  # of a bucket, or of files of nets, that only the pod may read
        print(f"{error.what}: the workdir is not checked")
        return
    Workdir(root).check_identity(
        scientific_settings(recipe.config), default_settings(recipe.config)
    )


def _check_source(config: RunConfig) -> None:
    """The path of the data, which is of the other machines, and a source class of the user's."""
    data = config.data
    source = data.images if data.images not in IMAGES else None
    if source is not None:
        own_source(source)
    if data.images != "noise":
        data_path(spec_for(data.name), data.directory, source)


def _parts(config: RunConfig) -> list[RunConfig]:
    """The runs of a series, or the one run."""
    if config.series.by is None:
        return [config]
    single = replace(
        config,
        series=SeriesConfig(),
        evaluation=replace(config.evaluation, evaluations=["accuracy"]),
    )
    if config.series.by == "classes" and spec_for(config.data.name).num_classes is None:
        return [single]  # only the data say which classes a part has
    return [replace(single, data=run.data) for run in runs_of(config)]


def _check_run(config: RunConfig, mesh: Mesh, hardware: Hardware | None, nets_here: bool) -> None:
    """Builds one run, and lets its evaluations check themselves."""
    check_sizes(mesh, config.pool.members, config.data.batch)
    sizes = _sizes(config)
    if sizes is None:
        return
    shape, classes = sizes
    problem = problem_of(config, mesh, classes, shape)
    if nets_here:
        problem = with_nets(problem, config, classes, shape)
    build_algorithm(config.algorithm, problem)
    placement = _placement(config, shape, classes, hardware)
    if hardware is not None or config.data.placement != "auto":
        platform = hardware.chip.platform if hardware is not None else "tpu"
        most_steps(config.loop.steps_per_call, placement, platform)
    _check_evaluations(config, config, hardware, nets_here)


def _check_evaluations(
    config: RunConfig, part: RunConfig, hardware: Hardware | None, nets_here: bool
) -> None:
    """Lets the evaluations of a run, or of a series with the run `part`, check themselves."""
    sizes, held_out = _sizes(config), check_published(part)
    if sizes is None:
        return
    shape, classes = sizes
    placement = _placement(config, shape, classes, hardware)
    task = task_of(config, shape, classes, int(held_out), placement)
    if task.encoders is not None and not nets_here:
        task = replace(task, encoders=replace(task.encoders, paths=()))
    found = load_evaluations(config.evaluation.evaluations, task)
    if config.series.by is not None:
        of_a_series(config, found)


def _check_fits(name: str, config: RunConfig, mesh: Mesh, hardware: Hardware) -> None:
    """Prints the plan of a run, which must fit."""
    sizes = _sizes(config)
    if sizes is None:
        print(
            f"{name}: the sizes of its data are not known: frepo-scale plan takes them as options"
        )
        return
    vary = varied(name, config, *sizes)
    plan = make_plan(vary({}), hardware, mesh.shape[POOL], mesh.shape[DATA])
    if not plan.fits:
        change = smallest_change(vary, plan)
        what, needed, excess = f"an outer step of {name}", plan.memory.total, plan.step_excess
        if excess <= 0:
            what, needed = f"an evaluation of {name}", plan.evaluation
            excess = plan.evaluation_excess
        raise InputError(
            f"{what} needs {needed / 1e9:.1f} GB of each device of {hardware.name}, by the estimate"
            " of frepo-scale plan --quick",
            f"at most {(needed - excess) / 1e9:.1f} of its {hardware.chip.memory / 1e9:.1f} GB",
            f"use {advice(change)}" if change else "use more devices, or with more memory",
        )
    print(f"{report.text(plan)}\n")


def _sizes(config: RunConfig) -> tuple[tuple[int, int, int], int] | None:
    """Image shape (H, W, C) and number of classes; None where only the data say it."""
    spec = spec_for(config.data.name)
    side = config.data.resolution or spec.resolution
    if spec.num_classes is None or side is None or spec.channels is None:
        return None
    return (side, side, spec.channels), spec.num_classes


def _placement(
    config: RunConfig, shape: tuple[int, int, int], classes: int, hardware: Hardware | None
) -> str:
    """Where the training images will be, see `data.placement`, by the published size of the set."""
    if config.data.images == "noise":
        return "constant"
    subject = subject_of("", config, shape, classes)
    if hardware is not None:
        return placement_of(subject, hardware)
    pixels = (subject.images or 0) * subject.pixels
    return choose_placement(subject.placement, pixels, subject.prepared, Room("cpu", 0))
