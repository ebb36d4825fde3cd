"""The evaluation of a series: the sets of all its runs, evaluated together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import room_of
from frepo_scale.data.subset import text_of
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.evaluate.evaluation import Evaluation, Part, RealData
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.export.formats import Export, read_npz
from frepo_scale.jobs.protocol import evaluation_recipe
from frepo_scale.jobs.run import (
    build_evaluations,
    build_evaluator,
    evaluation_context,
)
from frepo_scale.jobs.series_runs import SeriesRun, runs_of
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.jobs.workdirs import finished_workdir
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.train.inputs import Inputs

_OF_ONE_SET = (
    *("steps", "batch", "schedule", "warm_up_steps", "final_learning_rate", "rate_of_step"),
    "learning_rate",
)


def series_evaluations(config: RunConfig, dataset: Dataset) -> dict[str, Evaluation]:
    """The evaluations of a series by name, checked against the data of one of its runs.

    Raises:
      InputError: one cannot be imported, or is not for such a series.
    """
    return of_a_series(config, build_evaluations(config, dataset))


def of_a_series(config: RunConfig, found: dict[str, Evaluation]) -> dict[str, Evaluation]:
    """The evaluations `found`, if they are for such a series.

    Raises:
      InputError: one does not.
    """
    for name, evaluation in found.items():
        # The chunks have no set in common that another evaluation could use.
        if config.series.by == "chunks" and getattr(evaluation, "series", None) != "chunks":
            raise InputError(
                f"EVALUATIONS: {name!r} with SERIES = 'chunks'",
                "evaluations of chunks, such as 'membership'",
                """use --gin.EVALUATIONS="['membership']" """,
            )
    return found


def series_scores(
    config: RunConfig, root: Path, finished: Path | None, preemption: Preemption
) -> dict[str, Any]:
    """Evaluates the sets of all runs of a series.

    Args:
      config: the settings of the series.
      root: its workdir.
      finished: a file for the scores of nets that are done; None: no file.
      preemption: polled while nets are trained.

    Returns:
      The scores, see `evaluate.run.evaluate_sets`, and the protocol under "protocol".

    Raises:
      InputError: a run has not finished, or the data have changed.
      Preempted: a stop was requested.
    """
    runs, mesh = runs_of(config), single_device_mesh()
    exports = [read_npz(finished_workdir(root / run.name).distilled) for run in runs]
    if config.series.by == "classes":
        dataset, parts = _class_parts(config, runs, exports, mesh)
        distilled = _in_order_of_classes(exports)
    else:
        dataset, parts = _chunk_parts(config, runs, exports, mesh)
        distilled = parts[0].distilled
    context = evaluation_context(
        config,
        build_evaluator(config, dataset, preemption),
        parts[0].real,
        {"distilled": distilled} | {part.name: part.distilled for part in parts},
        exports[0].preprocessing,
        finished,
        dataset.fingerprint,
        selected_by="",
    )
    context = replace(context, parts=tuple(parts))
    scores = evaluate_sets(series_evaluations(config, dataset), context)
    # The evaluations of series have a length and a schedule of their own.
    protocol = evaluation_recipe(config, dataset)
    protocol = {name: value for name, value in protocol.items() if name not in _OF_ONE_SET}
    return scores | {"protocol": protocol | {"training": "docs/algorithm.md section 9"}}


def _class_parts(
    config: RunConfig, runs: list[SeriesRun], exports: list[Export], mesh: Mesh
) -> tuple[Dataset, list[Part]]:
    """The data of all runs together, which every part has."""
    classes = [np.unique(export.hard_labels) for export in exports]
    data = replace(config.data, classes=text_of(np.concatenate(classes)))
    dataset = load_dataset(data, room_of(mesh))
    real = _real(dataset, exports[0].preprocessing, mesh)
    return dataset, [
        Part(run.name, labels, DistilledSet(export.images, export.labels), real)
        for run, labels, export in zip(runs, classes, exports, strict=True)
    ]


def _chunk_parts(
    config: RunConfig, runs: list[SeriesRun], exports: list[Export], mesh: Mesh
) -> tuple[Dataset, list[Part]]:
    """The data of each run, as its nets saw them."""
    datasets = [load_dataset(run.data, room_of(mesh)) for run in runs]
    return datasets[0], [
        Part(
            run.name,
            dataset.classes,
            DistilledSet(export.images, export.labels),
            _real(dataset, export.preprocessing, mesh),
        )
        for run, dataset, export in zip(runs, datasets, exports, strict=True)
    ]


def _real(dataset: Dataset, preprocessing: Preprocessing, mesh: Mesh) -> RealData:
    inputs = Inputs(dataset, preprocessing, mesh)
    return RealData(inputs.train, inputs.test, dataset.num_classes, inputs.held_out)


def _in_order_of_classes(exports: list[Export]) -> DistilledSet:
    """All images, class by class, as a run on all classes would have them."""
    order = np.argsort(np.concatenate([export.hard_labels for export in exports]), kind="stable")
    return DistilledSet(
        np.concatenate([export.images for export in exports])[order],
        np.concatenate([export.labels for export in exports])[order],
    )
