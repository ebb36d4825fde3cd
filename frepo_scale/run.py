"""The composition root: builds the objects of a job, calls the loop, writes what a run leaves."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.identity import scientific_settings, settings_sha256
from frepo_scale.core.paths import is_file, is_folder, is_local
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.prepare.job import prepare as prepare_set
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.distill.synthetic import hard_labels
from frepo_scale.evaluate.baselines import RealData, final_scores
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.export.formats import read_npz, write_folder, write_npz
from frepo_scale.export.report import format_table
from frepo_scale.jobs.distillation import Distillation
from frepo_scale.jobs.inputs import Inputs
from frepo_scale.jobs.overview import overview, written_bytes
from frepo_scale.jobs.parts import Parts, RunConfig, Source, evaluation_recipe
from frepo_scale.jobs.preprocessing import check_data, check_same_data
from frepo_scale.jobs.results import (
    print_account,
    print_result,
    read_text,
    write_run_report,
    write_text,
)
from frepo_scale.jobs.supervision import Supervision
from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.compiled import keep_compiled
from frepo_scale.parallel.mesh import platform_of, single_device_mesh
from frepo_scale.parallel.runtime import agree, is_first
from frepo_scale.parallel.share import on_first

_NAMED = "# recipe: "  # how config.gin begins


def check_workdir(config: RunConfig, workdir: Path) -> None:
    """Raises InputError if the workdir is not, and cannot become, that of such a run."""
    Workdir(workdir).check_identity(scientific_settings(config))


def dry_run(config: RunConfig, source: Source, workdir: Path) -> int:
    """Builds everything, prints the configuration and what it needs; trains and writes nothing."""
    settings = scientific_settings(config)
    Workdir(workdir).check_identity(settings)
    parts = Parts(config)
    if not is_first():
        return 0
    print(source.operative)
    print(overview(parts.module, parts.dataset, config.distill, config.pool))
    print(f"config_sha256 {settings_sha256(settings)}; workdir {workdir}; nothing was trained.")
    return 0


def distill(config: RunConfig, source: Source, workdir: Path) -> int:
    """Runs or resumes a recipe to its result.

    Returns:
      The exit code: 0 with a result, 42 or 130 when stopped with the state saved.

    Raises:
      InputError: anything given is wrong.
      RunError: the loss diverged, or no checkpoint is intact.
    """
    settings = scientific_settings(config)
    place = Workdir(workdir)
    on_first(lambda: place.check_identity(settings))
    if agree(int(place.finished)):
        if is_first():
            print_result(place, f"{source.name} is finished.\n")
        return 0
    supervision = Supervision(place, config.loop.watchdog_minutes)
    with contextlib.closing(supervision):
        supervision.watch()
        # Known to be in use before anything is read; an unused one is made only after all checks.
        on_first(lambda: supervision.own() if is_file(place.lock) else None)
        parts = Parts(config, preemption=Preemption(supervision.alive))
        check_same_data(parts.dataset)
        on_first(lambda: _open(place, supervision, parts, source))
        keep_compiled(place.compiled, platform_of(parts.mesh))
        parts.preemption.install()
        try:
            with contextlib.closing(Distillation(parts, source, place, supervision)) as job:
                job.run()
        except Preempted:
            supervision.preempted()
            if is_first():
                print(f"stopped; the same command goes on from {place.root}")
            return parts.preemption.exit_code
        except BrokenPipeError:  # nobody reads what is printed; the workdir is sound
            raise
        except OSError as error:
            supervision.failed(error)
            raise InputError(
                f"workdir {place.root} cannot be written ({error.strerror or error})",
                "room on the disk and permission to write",
                "mend it and give the same command: the run goes on from its last checkpoint",
            ) from error
        except (InputError, RunError) as error:
            supervision.failed(error)
            raise
    return 0


def _open(place: Workdir, supervision: Supervision, parts: Parts, source: Source) -> None:
    """Makes the workdir this run's."""
    config, settings = parts.config, scientific_settings(parts.config)
    check_data(place, parts.dataset)
    place.open(settings, written_bytes(parts.module, parts.dataset, config.distill, config.pool))
    supervision.own()
    place.claim(settings)
    write_text(place.config, f"{_NAMED}{source.name}\n{source.text}")
    write_text(place.operative_config, source.operative)


def prepare(config: PrepareConfig) -> int:
    """Turns a source of images into a prepared set, or goes on with one.

    Returns:
      The exit code: 0 with a finished set, 42 or 130 when stopped; what is finished is kept.
    """
    preemption = Preemption()
    preemption.install()
    try:
        prepare_set(config, preemption)
    except Preempted:
        print(f"stopped; the same command goes on from {config.out}")
        return preemption.exit_code
    return 0


def recipe_text(target: Path) -> tuple[str, str]:
    """Name and text of the recipe a workdir or an export came from."""
    if is_folder(target):
        text = read_text(_workdir(target).config)
        first = text.partition("\n")[0]
        named = first.startswith(_NAMED)
        return first.removeprefix(_NAMED) if named else _name(target), text
    provenance = read_npz(target).provenance
    if "config" not in provenance:
        raise InputError(f"{target} does not say which recipe made it", "provenance with a config")
    return str(provenance.get("recipe", target.stem)), str(provenance["config"])


def _name(folder: Path) -> str:
    return (folder.resolve() if is_local(folder) else folder).name


def evaluate(config: RunConfig, target: Path) -> int:
    """Evaluates a finished run or an export with fresh nets and prints the table.

    A workdir also gets `evaluation.json`; its `result.json` stays as it is.
    """
    exported = read_npz(_finished(target).distilled if is_folder(target) else target)
    parts = Parts(config, single_device_mesh())  # a pod's result is judged anywhere
    dataset = parts.dataset
    if exported.images.shape[1:] != dataset.image_shape or (
        exported.labels.shape[1] != dataset.num_classes
    ):
        raise InputError(
            f"{target} holds {exported.images.shape[1:]} images of {exported.labels.shape[1]}"
            f" classes, {config.data.name} {dataset.image_shape} images of {dataset.num_classes}",
            "a data set of the same shape",
        )
    if not len(dataset.test):
        raise InputError(
            f"{dataset.origin} has no test images",
            "some to measure with",
            "prepare the set with a test part",
        )
    ipc = len(exported.images) // dataset.num_classes
    if not np.array_equal(exported.hard_labels, hard_labels(dataset.num_classes, ipc)):
        raise InputError(
            f"{target} does not hold the same number of images of each class, class by class",
            "what a run has left",
        )
    parts.preemption.install()
    inputs = Inputs(dataset, exported.preprocessing, parts.mesh)
    real = RealData(inputs.train, inputs.test, dataset.num_classes)
    sets = {"distilled": DistilledSet(exported.images, exported.labels)}
    progress = Workdir(target).evaluated_nets if is_folder(target) else None
    settings = settings_sha256(scientific_settings(config)) + dataset.fingerprint
    try:
        scores = final_scores(
            parts.evaluator,
            config.evaluation,
            real,
            sets,
            ipc,
            config.distill.seed,
            FinishedNets(progress, sets, settings),
        )
    except Preempted:
        print("stopped; the same command " + ("goes on" if progress else "begins again"))
        return parts.preemption.exit_code

    def tell() -> None:
        print(format_table(scores))
        if is_folder(target):
            place = Workdir(target)
            scores["evaluation"] = evaluation_recipe(config, dataset)
            write_text(place.evaluation, json.dumps(scores, indent=1) + "\n")
            print(f"written to {place.evaluation}")

    on_first(tell)
    return 0


def report(workdir: Path) -> int:
    """Writes a run's report from what it has left so far."""
    place = _workdir(workdir)
    write_run_report(place, recipe_text(workdir)[0])
    print_account(place)
    print(f"written to {place.report}")
    return 0


def export(workdir: Path, form: str, out: Path) -> int:
    """Copies a finished run's distilled set to `out`, as "npz" or "folder"."""
    exported = read_npz(_finished(workdir).distilled)
    if form == "npz":
        if os.path.lexists(out):
            raise InputError(f"{out} exists", "a new file", "choose another --out")
        write_npz(out, exported)
    else:
        write_folder(out, exported)
    print(f"written to {out}")
    return 0


def _workdir(workdir: Path) -> Workdir:
    place = Workdir(workdir)
    if not is_file(place.config):
        raise InputError(f"{workdir} is not a run's workdir", f"a folder with {place.config.name}")
    return place


def _finished(workdir: Path) -> Workdir:
    place = _workdir(workdir)
    if not is_file(place.distilled):
        raise InputError(
            f"{workdir} has no {place.distilled.name}",
            "the workdir of a run that has reached its last step",
            "resume it with the same frepo-scale distill command first",
        )
    return place
