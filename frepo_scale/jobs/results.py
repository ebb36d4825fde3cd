"""The end of a run: export the selected set, evaluate it, write result and report."""

import json
from dataclasses import dataclass, replace
from typing import Any

from frepo_scale.core.identity import scientific_settings, settings_sha256
from frepo_scale.core.types import DistilledSet
from frepo_scale.core.versions import code_fingerprint, commit, versions
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.state import NEVER, TrainState, unpadded
from frepo_scale.distill.synthetic import hard_labels
from frepo_scale.evaluate.evaluation import RealData
from frepo_scale.evaluate.protocol import Evaluator
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.export.run_report import print_result, write_run_report, write_text
from frepo_scale.jobs.exported import measured, portable
from frepo_scale.jobs.protocol import evaluation_recipe
from frepo_scale.jobs.run import Run, evaluation_context
from frepo_scale.ops.metrics import read_jsonl
from frepo_scale.ops.supervisor import Supervisor
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.share import on_first
from frepo_scale.train.inputs import Inputs


@dataclass(frozen=True)
class Work:
    """The objects of an attempt at a run.

    Attributes:
      run: the run.
      workdir: its folder.
      supervisor: lock, ledger and watchdog.
      preprocessing: pixels to net inputs and back.
      inputs: the real images as net inputs.
      evaluator: trains and tests fresh nets.
    """

    run: Run
    workdir: Workdir
    supervisor: Supervisor
    preprocessing: Preprocessing
    inputs: Inputs
    evaluator: Evaluator


def write_results(work: Work, state: TrainState, seconds: float) -> None:
    """Writes `distilled.npz`, then runs the final evaluation.

    Args:
      work: the objects of the attempt.
      state: the state after the last step.
      seconds: seconds spent on the run.

    Raises:
      Preempted: a stop was requested; the scores of finished nets are stored.
    """
    run, config, workdir = work.run, work.run.config, work.workdir
    last = unpadded(run.algorithm.distilled(state.algorithm), run.size)
    selected, step = last, config.distill.steps
    by_held_out = int(state.best.step) != NEVER
    if by_held_out:
        selected, step = unpadded(state.best.distilled, run.size), int(state.best.step)
    on_first(work.supervisor.check_lock)
    export = _export(work, selected, step)
    on_first(lambda: write_npz(workdir.distilled, export))
    selected_by = "held-out" if by_held_out else "last step"
    sets = {"distilled": selected}
    if by_held_out:  # the same object, and not evaluated again, if the last step is the best one
        sets["distilled_last"] = selected if step == config.distill.steps else last
    with work.supervisor.ledger.during("evaluation"):
        scores = _scores(work, sets, selected_by, step)
    result = scores | {
        "steps": config.distill.steps,
        "seconds": round(seconds, 1),
        "selected_step": step,
        "selected_by": selected_by,
        "held_out_images": len(run.dataset.held_out),
        "config_sha256": settings_sha256(scientific_settings(config)),
    }

    def write() -> None:
        work.supervisor.check_lock()
        work.supervisor.finished()
        # Again, with the accuracies: the file alone tells what it is worth.
        write_npz(workdir.distilled, replace(export, results=measured(scores, selected_by)))
        facts, line = run.algorithm.summary(read_jsonl(workdir.metrics))
        write_text(workdir.result, json.dumps(result | facts, indent=1) + "\n")
        write_run_report(workdir, run.recipe.name)
        write_text(workdir.done, "")  # last: without it the same command does this again
        print_result(workdir)
        if line:
            print(f"frepo-scale: {line}")

    on_first(write)


def _export(work: Work, selected: DistilledSet, step: int) -> Export:
    run, config, dataset = work.run, work.run.config, work.run.dataset
    return Export(
        images=selected.images,
        labels=selected.labels,
        hard_labels=hard_labels(dataset.classes, config.distill.ipc),
        class_names=dataset.class_names,
        preprocessing=work.preprocessing,
        evaluation=evaluation_recipe(config, dataset),
        provenance={
            "recipe": run.recipe.name,
            "config": portable(run.recipe.text),
            "config_sha256": settings_sha256(scientific_settings(config)),
            "dataset": config.data.name,
            "dataset_sha256": dataset.fingerprint,
            "images_skipped": dataset.skipped,
            "fit": dataset.fit,
            "ipc": config.distill.ipc,
            "seed": config.distill.seed,
            "step": step,
            "versions": versions(),
            "code": code_fingerprint(),
        }
        | ({"commit": commit()} if commit() else {})
        | ({"pool_weights_sha256": config.pool.weights_sha256} if config.pool.frozen else {}),
    )


def _scores(
    work: Work, sets: dict[str, DistilledSet], selected_by: str, step: int
) -> dict[str, Any]:
    """The final numbers; none where there are no test images."""
    inputs, dataset = work.inputs, work.run.dataset
    if not len(dataset.test):
        return {}
    context = evaluation_context(
        work.run.config,
        work.evaluator,
        RealData(inputs.train, inputs.test, dataset.num_classes, inputs.held_out),
        sets,
        work.preprocessing,
        work.workdir.finished_nets,
        dataset.fingerprint,
        selected_by,
        step,
    )
    return evaluate_sets(work.run.evaluations, context)
