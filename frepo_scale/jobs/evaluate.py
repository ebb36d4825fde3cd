"""`frepo-scale evaluate`: trains fresh nets on a distilled set and tests them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.paths import is_file, is_folder
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import Room, room_of
from frepo_scale.distill.synthetic import hard_labels
from frepo_scale.evaluate.evaluation import RealData
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.export.any_set import Told, read_any_set
from frepo_scale.export.formats import Export
from frepo_scale.export.report import format_table
from frepo_scale.export.run_report import write_text
from frepo_scale.jobs.protocol import evaluation_recipe
from frepo_scale.jobs.run import (
    build_evaluations,
    build_evaluator,
    evaluation_context,
)
from frepo_scale.jobs.series_scores import series_scores
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.jobs.workdirs import is_own, read_own
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.environment import environment
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.share import on_first
from frepo_scale.train.inputs import Inputs


def evaluate(config: RunConfig, target: Path, told: Told | None = None) -> dict[str, Any]:
    """Evaluates a distilled set or a finished series with fresh nets and prints the table.

    A workdir also gets `evaluation.json`; its `result.json` stays as it is.

    Args:
      config: the settings of the recipe that made the set, with changes, or of one of its data set.
      target: the workdir or the export; any other set if `told` is given.
      told: what the user says about a set that is neither.

    Returns:
      The scores, see `evaluate.run.evaluate_sets`, the protocol under "protocol", and versions and
      devices under "environment".

    Raises:
      InputError: the set is damaged or does not suit the data, or there are no test images.
      Preempted: a stop was requested.
    """
    with pinned(), matmul_precision(config.distill.matmul_precision):
        return _evaluate(config, target, told)


def _evaluate(config: RunConfig, target: Path, told: Told | None) -> dict[str, Any]:
    in_workdir = is_folder(target) and is_file(Workdir(target).config)
    if config.series.by is not None and not in_workdir:
        raise InputError(
            f"{target} with SERIES = {config.series.by!r}",
            "the workdir of a series",
            "leave SERIES out to evaluate a single set",
        )
    progress = Workdir(target).evaluated_nets if in_workdir else None
    preemption = Preemption()
    try:
        if config.series.by is None:
            scores = _scores(config, target, told, progress, preemption)
        else:
            preemption.install()
            scores = series_scores(config, target, progress, preemption)
    except Preempted:
        print("stopped; the same command " + ("resumes" if progress else "starts again"))
        raise Preempted(preemption.exit_code) from None

    scores["environment"] = environment(single_device_mesh())

    def write() -> None:
        print(format_table(scores))
        if in_workdir:
            path = Workdir(target).evaluation
            write_text(path, json.dumps(scores, indent=1) + "\n")
            print(f"written to {path}")

    on_first(write)
    return scores


def _scores(
    config: RunConfig,
    target: Path,
    told: Told | None,
    progress: Path | None,
    preemption: Preemption,
) -> dict[str, Any]:
    """The scores of one distilled set."""
    mesh = single_device_mesh()  # the result of a pod can be judged on any machine
    dataset, exported = _read(config, target, told, room_of(mesh))
    for note in dataset.notes:
        print(f"data: {note}")
    ipc = len(exported.images) // len(dataset.classes)
    config = replace(config, distill=replace(config.distill, ipc=ipc))  # for the protocol
    evaluations = build_evaluations(config, dataset)
    evaluator = build_evaluator(config, dataset, preemption)
    preemption.install()
    inputs = Inputs(dataset, exported.preprocessing, mesh)
    context = evaluation_context(
        config,
        evaluator,
        RealData(inputs.train, inputs.test, dataset.num_classes, inputs.held_out),
        {"distilled": DistilledSet(exported.images, exported.labels)},
        exported.preprocessing,
        progress,
        dataset.fingerprint,
        selected_by="",
    )
    return evaluate_sets(evaluations, context) | {"protocol": evaluation_recipe(config, dataset)}


def told_about(target: Path, labels: str | None, normalised: Sequence[str] | None) -> Told | None:
    """What the user says about a set of another program; None for a workdir or an export.

    Args:
      target: the set.
      labels: a file with its labels.
      normalised: mean and standard deviation, each a number or numbers separated by commas.

    Raises:
      InputError: a number is none, or the set is an export, which says all this itself.
    """
    if is_own(target):
        if labels is not None or normalised is not None:
            option = "--labels" if labels is not None else "--normalised"
            raise InputError(f"{option} with {target}", "a set that is no workdir and no export")
        return None
    numbers = None
    if normalised is not None:
        try:
            mean, std = (tuple(map(float, part.split(","))) for part in normalised)
        except ValueError as error:
            raise InputError(
                f"--normalised {' '.join(normalised)}",
                "mean and standard deviation, such as 0.5 0.25 or 0.49,0.48,0.45 0.25,0.24,0.26",
            ) from error
        numbers = (mean, std)
    return Told(None if labels is None else Path(labels).expanduser(), numbers)


def _read(config: RunConfig, target: Path, told: Told | None, room: Room) -> tuple[Dataset, Export]:
    """The data set and the distilled set, which suit each other."""
    exported = read_own(target) if told is None else None  # before the data, which take longer
    dataset = load_dataset(config.data, room)
    _check_test(dataset)
    if exported is None:
        exported = _foreign(target, told or Told(), dataset)
    _check_set(target, exported, config, dataset)
    return dataset, exported


def _foreign(target: Path, told: Told, dataset: Dataset) -> Export:
    """A set of another program as one of our own; states what was recognised."""
    found = read_any_set(target, told, dataset.image_shape, dataset.class_names, dataset.classes)
    exported, note = found.export(dataset.fit_preprocessing(), dataset.class_names)
    on_first(lambda: print(note, flush=True))
    return exported


def _check_test(dataset: Dataset) -> None:
    """Raises InputError if there is nothing to test on."""
    if not len(dataset.test):
        raise InputError(
            f"{dataset.origin} has no test images",
            "a data set with a test part",
            "prepare it again with its test part",
        )


def _check_set(target: Path, exported: Export, config: RunConfig, dataset: Dataset) -> None:
    """Raises InputError if a set does not suit the data."""
    shape, classes = exported.images.shape[1:], exported.labels.shape[1]
    if shape != dataset.image_shape or classes != dataset.num_classes:
        raise InputError(
            f"{target} holds {shape} images of {classes} classes, {config.data.name}"
            f" {dataset.image_shape} images of {dataset.num_classes}",
            "a data set of the same shape",
            "name the data set that the set was made from with --gin.DATASET and --gin.DATA_DIR",
        )
    ipc = len(exported.images) // len(dataset.classes)
    if not np.array_equal(exported.hard_labels, hard_labels(dataset.classes, ipc)):
        raise InputError(
            f"{target} does not hold the same number of images of each class, class by class",
            "a set that a run has written",
        )
