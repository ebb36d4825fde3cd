"""One distillation in one workdir, from the first step or a checkpoint to the result."""

import importlib.metadata
import json
import time
from collections.abc import Mapping

from frepo_scale.core.errors import RunError
from frepo_scale.core.identity import scientific_settings, settings_sha256
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.pipeline import target_batches
from frepo_scale.distill.state import (
    NEVER,
    DistillState,
    initial_state,
    keep_as_best,
    unpadded,
    with_padding,
    without_padding,
)
from frepo_scale.distill.step import make_outer_step
from frepo_scale.distill.synthetic import hard_labels
from frepo_scale.evaluate.baselines import RealData, final_scores
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.export.gallery import save_gallery
from frepo_scale.jobs.parts import (
    Parts,
    Source,
    evaluation_recipe,
    net_inputs,
    other_data,
    stored_preprocessing,
)
from frepo_scale.jobs.results import print_result, write_run_report, write_text
from frepo_scale.ops.checkpoint import Checkpointer, Restored
from frepo_scale.ops.metrics import JsonlWriter, MetricWriter, MultiWriter
from frepo_scale.ops.preemption import Preempted
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter
from frepo_scale.ops.workdir import Workdir
from frepo_scale.train.loop import train


class Distillation:
    """One run in one workdir; also what the loop asks to probe and save."""

    def __init__(self, parts: Parts, source: Source, place: Workdir) -> None:
        self._parts, self._source, self._place = parts, source, place
        self._config = parts.config
        dataset = parts.dataset
        self._preprocessing = stored_preprocessing(place, dataset)
        self._train = net_inputs(self._preprocessing, dataset.train)
        self._held_out = net_inputs(self._preprocessing, dataset.held_out)
        self._checkpointer = Checkpointer(place.checkpoints)
        self._writer: MetricWriter = MultiWriter([])
        self._actions: StepActions | None = None
        self._seconds_before, self._started = 0.0, time.monotonic()

    def run(self) -> None:
        """From the newest checkpoint, or the start, to the result.

        Raises:
          Preempted: a stop was asked for; the state is saved.
          RunError: the loss diverged, or no checkpoint is intact.
        """
        config, place, mesh = self._config, self._place, self._parts.mesh
        start_set = self._parts.start(self._train.images)
        state = initial_state(self._parts.module, config.distill, config.pool, start_set, mesh)
        restored = self._checkpointer.restore(without_padding(state, self._parts.size, mesh))
        start, probed = 0, NEVER
        if restored is not None:
            self._accept(restored)
            state = with_padding(restored.state, mesh)
            start, probed = restored.step, restored.meta["probed"]
        if start < config.distill.steps or probed != start:
            state, start, stopped = self._train_from(state, start, probed)
            if stopped:
                raise Preempted
        self._checkpointer.wait()
        self._finish(state, place)

    def _train_from(
        self, state: DistillState, start: int, probed: int
    ) -> tuple[DistillState, int, bool]:
        config, place = self._config, self._place
        tensorboard = TensorBoardWriter(place.tensorboard)
        self._writer = MultiWriter([JsonlWriter(place.metrics, resume_at=start), tensorboard])
        self._actions = StepActions(
            tensorboard, place.tensorboard, start, config.distill.steps, config.loop.profile
        )
        data = config.data
        outcome = train(
            state,
            start=start,
            probed=probed,
            steps=config.distill.steps,
            config=config.loop,
            step=make_outer_step(self._parts.outer_step(), state),
            batches=target_batches(
                self._train.images,
                self._train.labels,
                data.batch * config.pool.members,
                config.distill.seed,
                start,
            ),
            job=self,
            writer=self._writer,
            preemption=self._parts.preemption,
        )
        return outcome.state, outcome.step, outcome.stopped

    def _accept(self, restored: Restored) -> None:
        for line in restored.damaged:
            print(f"frepo-scale: {line}; using checkpoint {restored.step}")
        dataset = self._parts.dataset
        if restored.meta["dataset"] != dataset.fingerprint:
            raise other_data(self._place, dataset, restored.meta["dataset"])
        self._seconds_before = restored.meta["seconds"]
        print(f"resuming {self._place.root} at step {restored.step}")

    # What the loop asks for -----------------------------------------------------------------

    def check(self, state: DistillState) -> None:
        """Raises RunError if the loss was not finite at some step."""
        bad = int(state.first_bad_step)
        if bad != NEVER:
            self._checkpointer.wait()
            good = self._checkpointer.latest()
            saved = "no checkpoint was saved before"
            if good is not None:
                saved = f"the last good checkpoint is {self._place.checkpoints / str(good)}"
            raise RunError(
                f"the loss is not finite at step {bad}; {saved}; try a higher --gin.RIDGE or a"
                " lower --gin.LEARNING_RATE in a new --workdir"
            )

    def probe(self, state: DistillState, step: int) -> tuple[DistillState, Mapping[str, float]]:
        """Scores the set on the held-out part and keeps it if it is the best so far."""
        self._save_gallery(state.distilled, step)
        if not len(self._held_out):
            return state, {}
        found = self._parts.evaluator.probe(
            unpadded(state.distilled, self._parts.size),
            self._held_out,
            self._parts.dataset.num_classes,
        )
        if found.mean > float(state.best.score):
            state = keep_as_best(state, found.mean)
        return state, {"probe_accuracy": found.mean, "probe_accuracy_std": found.std}

    def save(self, state: DistillState, step: int, probed: int) -> None:
        """Saves the state with what a resumed run needs to know."""
        facts = {
            "probed": probed,
            "seconds": self._seconds(),
            "dataset": self._parts.dataset.fingerprint,
            "settings": scientific_settings(self._config),
            "operative_config": self._source.operative,
        }
        saved = without_padding(state, self._parts.size, self._parts.mesh)
        self._checkpointer.save(step, saved, facts)

    def after_step(self, step: int) -> None:
        """Hands the step to clu's periodic actions."""
        if self._actions is not None:
            self._actions.after_step(step)

    # ----------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _save_gallery(self, distilled: DistilledSet, step: int) -> None:
        path = self._place.gallery / f"step_{step:07d}.png"
        pixels = self._preprocessing.to_pixels(unpadded(distilled, self._parts.size).images)
        save_gallery(path, pixels, self._parts.dataset.class_names, self._config.distill.ipc)

    def _finish(self, state: DistillState, place: Workdir) -> None:
        """Writes the distilled set first, then spends the final evaluation on it."""
        config, dataset = self._config, self._parts.dataset
        seconds = self._seconds()
        by_held_out = int(state.best.step) != NEVER
        selected_step = int(state.best.step) if by_held_out else config.distill.steps
        last = unpadded(state.distilled, self._parts.size)
        selected = last
        if by_held_out:
            selected = unpadded(state.best.distilled, self._parts.size)
        settings = scientific_settings(config)
        digest = settings_sha256(settings)
        export_ = Export(
            images=selected.images,
            labels=selected.labels,
            hard_labels=hard_labels(dataset.num_classes, config.distill.ipc),
            class_names=dataset.class_names,
            preprocessing=self._preprocessing,
            evaluation=evaluation_recipe(config, dataset),
            provenance={
                "recipe": self._source.name,
                "config": self._source.text,
                "config_sha256": digest,
                "dataset": config.data.name,
                "dataset_sha256": dataset.fingerprint,
                "images_skipped": dataset.skipped,
                "fit": dataset.fit,
                "ipc": config.distill.ipc,
                "seed": config.distill.seed,
                "step": selected_step,
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("frepo-scale", "jax", "flax", "optax", "numpy")
                },
            },
        )
        write_npz(place.distilled, export_)
        sets = {"distilled": selected}
        if selected_step != config.distill.steps:
            sets["distilled_last"] = last
        real = RealData(
            self._train, net_inputs(self._preprocessing, dataset.test), dataset.num_classes
        )
        scores = final_scores(
            self._parts.evaluator,
            config.evaluation,
            real,
            sets,
            config.distill.ipc,
            config.distill.seed,
        )
        scores.setdefault("distilled_last", scores["distilled"])
        result = scores | {
            "steps": config.distill.steps,
            "seconds": round(seconds, 1),
            "selected_step": selected_step,
            "selected_by": "held-out" if by_held_out else "last step",
            "held_out_images": len(dataset.held_out),
            "config_sha256": digest,
        }
        write_text(place.result, json.dumps(result, indent=1) + "\n")
        write_run_report(place, self._source.name)
        print_result(place)

    def close(self) -> None:
        """Ends writers and waits for saves under way."""
        if self._actions is not None:
            self._actions.close()
        self._writer.close()
        self._checkpointer.close()
