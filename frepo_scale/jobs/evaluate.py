"""`frepo-scale evaluate`: trains fresh nets on a distilled set and tests them.

Finished nets and the result are stored in the workdir of a run, or else in a folder beside the set
(`jobs.evaluation_folder`), so that every evaluation resumes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.identity import default_settings
from frepo_scale.core.paths import is_file, is_folder, is_local
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import Room, room_of
from frepo_scale.distill.synthetic import hard_labels
from frepo_scale.evaluate.evaluation import RealData
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.evaluate.soft_labels import has_soft_labels
from frepo_scale.export.any_set import Told, read_any_set
from frepo_scale.export.formats import Export
from frepo_scale.export.report import format_table
from frepo_scale.export.run_report import write_text
from frepo_scale.jobs.evaluation_folder import (
    fingerprint_of,
    folder_of,
    open_evaluation,
    set_sha256,
)
from frepo_scale.jobs.protocol import evaluation_recipe
from frepo_scale.jobs.run import (
    build_evaluations,
    build_evaluator,
    evaluation_context,
    measurement_settings,
)
from frepo_scale.jobs.series_scores import series_scores
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.jobs.surroundings import leaving_at_once
from frepo_scale.jobs.workdirs import is_own, read_own
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.environment import environment
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.share import on_first
from frepo_scale.train.inputs import Inputs

# Mean or standard deviation of a normalisation, of all channels or of each.
Normalised = str | float | Sequence[float]


def evaluate(
    config: RunConfig, target: Path, told: Told | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Evaluates a distilled set or a finished series with fresh nets and prints the table.

    The result is written to `evaluation.json`; the `result.json` of a run stays as it is.

    Args:
      config: the settings of the recipe that made the set, with changes, or of one of its data set.
      target: the workdir or the export; any other set if `told` is given.
      told: what the user says about a set that is neither.
      out: the folder for result and finished nets; None: the workdir, or a folder beside the set.

    Returns:
      The scores, see `evaluate.run.evaluate_sets`, the protocol under "protocol", and versions and
      devices under "environment".

    Raises:
      InputError: the set is damaged or does not suit the data, there are no test images, or the
        folder cannot be written or holds another evaluation.
      Preempted: a stop was requested; the same call resumes.
    """
    with pinned(), matmul_precision(config.distill.matmul_precision):
        return _evaluate(config, target, told, out)


def _evaluate(
    config: RunConfig, target: Path, told: Told | None, out: Path | None
) -> dict[str, Any]:
    in_workdir = is_folder(target) and is_file(Workdir(target).config)
    if config.series.by is not None and not in_workdir:
        raise InputError(
            f"{target} with SERIES = {config.series.by!r}",
            "the workdir of a series",
            "leave SERIES out to evaluate a single set",
        )
    if config.series.by is not None and out is not None:
        raise InputError(
            f"--out {out} with SERIES = {config.series.by!r}",
            "no --out: the workdir of a series keeps its evaluation",
            "leave --out out",
        )
    folder = target if in_workdir and out is None else out or folder_of(target)
    files, preemption = Workdir(folder), Preemption()
    try:
        if config.series.by is None:
            own_folder = None if folder is target else folder
            scores, note = _scores(config, target, told, own_folder, files, preemption)
        else:
            preemption.install()
            with leaving_at_once(preemption, _say_stopped):
                scores = series_scores(config, target, files.evaluated_nets, preemption)
            note = ""
    except Preempted:
        _say_stopped()
        raise Preempted(preemption.exit_code) from None

    scores["environment"] = environment(single_device_mesh())

    def write() -> None:
        print(format_table(scores))
        if note:
            print(note)
        write_text(files.evaluation, json.dumps(scores, indent=1) + "\n")
        print(f"written to {files.evaluation}")

    on_first(write)
    return scores


def _say_stopped() -> None:
    print("stopped; the same command resumes")


def _scores(
    config: RunConfig,
    target: Path,
    told: Told | None,
    folder: Path | None,
    files: Workdir,
    preemption: Preemption,
) -> tuple[dict[str, Any], str]:
    """The scores of one distilled set, and what was not measured."""
    mesh = single_device_mesh()  # the result of a pod can be evaluated on any machine
    dataset, exported, sha256 = _read(config, target, told, room_of(mesh))
    for note in (*dataset.notes, *_origin_notes(exported, config, dataset)):
        print(f"data: {note}")
    ipc = len(exported.images) // len(dataset.classes)
    config = replace(config, distill=replace(config.distill, ipc=ipc))  # for the protocol
    evaluations = build_evaluations(config, dataset)
    evaluator = build_evaluator(config, dataset, preemption)
    if folder is not None:
        settings = measurement_settings(config) | {"dataset_sha256": dataset.fingerprint}
        origin = {"dataset": config.data.name, "dataset_sha256": dataset.fingerprint, "ipc": ipc}
        judged = replace(exported, provenance=origin | exported.provenance)
        open_evaluation(folder, sha256, settings, default_settings(config), judged)
    preemption.install()
    inputs = Inputs(dataset, exported.preprocessing, mesh)
    context = evaluation_context(
        config,
        evaluator,
        RealData(inputs.train, inputs.test, dataset.num_classes, inputs.held_out),
        {"distilled": DistilledSet(exported.images, exported.labels)},
        exported.preprocessing,
        files.evaluated_nets,
        dataset.fingerprint,
        selected_by="",
        selected_step=exported.provenance.get("step"),
    )
    with leaving_at_once(preemption, _say_stopped):
        scores = evaluate_sets(evaluations, context)
    note = _not_measured(config, dataset, exported.labels)
    data = {"dataset": config.data.name, "dataset_sha256": dataset.fingerprint}
    return scores | {"protocol": evaluation_recipe(config, dataset) | data}, note


def _origin_notes(exported: Export, config: RunConfig, dataset: Dataset) -> list[str]:
    """How the data differ from those that one of our own sets was made from."""
    made, sha256 = exported.provenance.get("dataset"), exported.provenance.get("dataset_sha256")
    notes = []
    if isinstance(sha256, str) and sha256 != dataset.fingerprint:
        notes.append(
            f"the set was made from {made} with dataset_sha256 {sha256[:12]}, and is judged on"
            f" {config.data.name} with {dataset.fingerprint[:12]}"
        )
    for number, (own, other) in enumerate(
        zip(exported.class_names, dataset.class_names, strict=False)
    ):
        if own != other:
            notes.append(f"class {number} of the set is {own!r}, of the data {other!r}")
            break
    return notes


def _not_measured(config: RunConfig, dataset: Dataset, labels: np.ndarray) -> str:
    """One line on the baselines of `accuracy` that were left out, with their settings; or ""."""
    asked, missing = config.evaluation, []
    if "accuracy" not in asked.evaluations or "scores" in asked.evaluations:  # it measures both
        return ""
    if dataset.placement == "constant":  # which cannot be read as a whole
        return ""
    memory = " --gin.DATA_PLACEMENT=memory" if dataset.placement == "stream" else ""
    if not asked.soft_random and has_soft_labels(labels) and len(dataset.held_out):
        what = "random real images with soft labels of a teacher"
        missing.append(f"{what} (--gin.SOFT_RANDOM=True{memory})")
    if not asked.full_data:
        missing.append(f"all training images (--gin.FULL_DATA=True{memory})")
    return f"baselines not measured: {', '.join(missing)}" if missing else ""


def told_about(
    target: Path, labels: str | None, normalised: Sequence[Normalised] | None
) -> Told | None:
    """What the user says about a set of another program; None for a workdir or an export.

    Args:
      target: the set.
      labels: a file with its labels.
      normalised: mean and standard deviation, each a number, numbers separated by commas, or a
        sequence of numbers.

    Raises:
      InputError: there is no set, a number is none, or the set is an export, which says all this
        itself.
    """
    if is_local(target) and not (is_file(target) or is_folder(target)):
        expected = "the workdir of a run, an export, or a set of another program"
        raise InputError(f"{target} does not exist", expected, "check the path")
    if is_own(target):
        if labels is not None or normalised is not None:
            option = "--labels" if labels is not None else "--normalised"
            raise InputError(
                f"{option} with {target}, which is a workdir or an export",
                "a set of another program",
                f"leave {option} out: the set says this itself",
            )
        return None
    numbers = None
    if normalised is not None:
        try:
            mean, std = map(_numbers, normalised)
        except (TypeError, ValueError) as error:
            given = normalised if isinstance(normalised, Sequence) else [normalised]
            raise InputError(
                f"--normalised {' '.join(map(str, given))}",
                "mean and standard deviation, such as 0.5 0.25 or 0.49,0.48,0.45 0.25,0.24,0.26",
            ) from error
        numbers = (mean, std)
    return Told(None if labels is None else Path(labels).expanduser(), numbers)


def _numbers(given: Normalised) -> tuple[float, ...]:
    if isinstance(given, str):
        return tuple(map(float, given.split(",")))
    return tuple(map(float, given)) if isinstance(given, Iterable) else (float(given),)


def _read(
    config: RunConfig, target: Path, told: Told | None, room: Room
) -> tuple[Dataset, Export, str]:
    """The data set, the distilled set, which suits it, and the fingerprint of the latter."""
    exported = read_own(target) if told is None else None  # before the data, which take longer
    # Nothing is distilled: the size of a target batch does not limit which classes are judged.
    dataset = load_dataset(replace(config.data, batch=1), room)
    _check_test(dataset)
    if exported is None:
        exported, sha256 = _foreign(target, told or Told(), dataset)
    else:
        sha256 = fingerprint_of(exported)
    _check_set(target, exported, config, dataset)
    return dataset, exported, sha256


def _foreign(target: Path, told: Told, dataset: Dataset) -> tuple[Export, str]:
    """A set of another program as one of our own; states what was recognised."""
    found = read_any_set(target, told, dataset.image_shape, dataset.class_names, dataset.classes)
    exported, note = found.export(dataset.fit_preprocessing(), dataset.class_names)
    on_first(lambda: print(note, flush=True))
    # Of what the file holds: net inputs of whitened images may differ between machines.
    raw, how = found.raw, str(told.normalised or "")
    return exported, set_sha256((raw.images, raw.labels, raw.hard), how)


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
