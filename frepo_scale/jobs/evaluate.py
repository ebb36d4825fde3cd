"""`frepo-scale evaluate`: trains fresh nets on a distilled set and tests them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.paths import is_folder
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import room_of
from frepo_scale.distill.synthetic import hard_labels
from frepo_scale.evaluate.evaluation import RealData
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.export.formats import Export, read_npz
from frepo_scale.export.report import format_table
from frepo_scale.export.run_report import write_text
from frepo_scale.jobs.run import (
    build_evaluations,
    build_evaluator,
    evaluation_context,
    evaluation_recipe,
)
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.jobs.workdirs import finished_workdir
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.environment import environment
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.share import on_first
from frepo_scale.train.inputs import Inputs


def evaluate(config: RunConfig, target: Path) -> dict[str, Any]:
    """Evaluates a finished run or an export with fresh nets and prints the table.

    A workdir also gets `evaluation.json`; its `result.json` stays as it is.

    Args:
      config: the settings of the recipe that made the set, with changes.
      target: the workdir or the .npz.

    Returns:
      The scores, see `evaluate.run.evaluate_sets`, the protocol under "protocol", and versions and
      devices under "environment".

    Raises:
      InputError: the set does not suit the data, or there are no test images.
      Preempted: a stop was requested.
    """
    with pinned(), matmul_precision(config.distill.matmul_precision):
        return _evaluate(config, target)


def _evaluate(config: RunConfig, target: Path) -> dict[str, Any]:
    in_workdir = is_folder(target)
    exported = read_npz(finished_workdir(target).distilled if in_workdir else target)
    mesh = single_device_mesh()  # the result of a pod can be judged on any machine
    dataset = load_dataset(config.data, room_of(mesh))
    _check_set(target, exported, config, dataset)
    evaluations = build_evaluations(config, dataset)
    preemption = Preemption()
    evaluator = build_evaluator(config, dataset, preemption)
    preemption.install()
    inputs = Inputs(dataset, exported.preprocessing, mesh)
    sets = {"distilled": DistilledSet(exported.images, exported.labels)}
    progress = Workdir(target).evaluated_nets if in_workdir else None
    context = evaluation_context(
        config,
        evaluator,
        RealData(inputs.train, inputs.test, dataset.num_classes, inputs.held_out),
        sets,
        exported.preprocessing,
        progress,
        dataset.fingerprint,
        selected_by="",
    )
    try:
        scores = evaluate_sets(evaluations, context)
    except Preempted:
        print("stopped; the same command " + ("resumes" if progress else "starts again"))
        raise Preempted(preemption.exit_code) from None

    scores["protocol"] = evaluation_recipe(config, dataset)
    scores["environment"] = environment(mesh)

    def write() -> None:
        print(format_table(scores))
        if in_workdir:
            path = Workdir(target).evaluation
            write_text(path, json.dumps(scores, indent=1) + "\n")
            print(f"written to {path}")

    on_first(write)
    return scores


def _check_set(target: Path, exported: Export, config: RunConfig, dataset: Dataset) -> None:
    """Raises InputError if a set does not suit the data, or there is nothing to test on."""
    shape, classes = exported.images.shape[1:], exported.labels.shape[1]
    if shape != dataset.image_shape or classes != dataset.num_classes:
        raise InputError(
            f"{target} holds {shape} images of {classes} classes, {config.data.name}"
            f" {dataset.image_shape} images of {dataset.num_classes}",
            "a data set of the same shape",
            "name the data set that the set was made from with --gin.DATASET and --gin.DATA_DIR",
        )
    if not len(dataset.test):
        raise InputError(
            f"{dataset.origin} has no test images",
            "a data set with a test part",
            "prepare it again with its test part",
        )
    ipc = len(exported.images) // classes
    if not np.array_equal(exported.hard_labels, hard_labels(classes, ipc)):
        raise InputError(
            f"{target} does not hold the same number of images of each class, class by class",
            "a set that a run has written",
        )
