"""One distillation in one workdir, from the first step or a checkpoint to the result."""

import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from frepo_scale.core.errors import RunError
from frepo_scale.core.identity import scientific_settings, settings_sha256
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.feed import target_batches
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
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.protocol import is_guessing
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.export.gallery import save_gallery
from frepo_scale.jobs.inputs import Inputs
from frepo_scale.jobs.parts import (
    Parts,
    Source,
    evaluation_recipe,
)
from frepo_scale.jobs.preprocessing import other_data, shared_preprocessing
from frepo_scale.jobs.results import print_result, write_run_report, write_text
from frepo_scale.jobs.supervision import Supervision
from frepo_scale.ops.checkpoint import Checkpointer, Restored
from frepo_scale.ops.metrics import JsonlWriter, MetricWriter, MultiWriter
from frepo_scale.ops.preemption import Preempted
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.runtime import agree, is_first
from frepo_scale.parallel.share import of_first, on_first
from frepo_scale.plan.flops import outer_step_flops
from frepo_scale.train.loop import train


def _say(line: str) -> None:
    """One process speaks for all."""
    if is_first():
        print(line)


class Distillation:
    """One run in one workdir; also what the loop asks to probe and save."""

    def __init__(
        self, parts: Parts, source: Source, place: Workdir, supervision: Supervision
    ) -> None:
        self._parts, self._source, self._place = parts, source, place
        self._supervision = supervision
        self._at_chance = 0  # probes in a row that were no better
        self._config = parts.config
        dataset = parts.dataset
        self._preprocessing = shared_preprocessing(place, dataset)
        self._inputs = Inputs(dataset, self._preprocessing, parts.mesh)
        self._checkpointer = Checkpointer(place.checkpoints, self._config.loop.keep_every)
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
        # Process 0's: machines of different kinds whiten with different rounding.
        start_set = of_first(self._parts.start(self._inputs.train))
        state = initial_state(self._parts.module, config.distill, config.pool, start_set, mesh)
        restored = self._checkpointer.restore(without_padding(state, self._parts.size, mesh))
        start, probed = 0, NEVER
        if restored is not None:
            self._accept(restored)
            state = with_padding(restored.state, mesh)
            start, probed = restored.step, restored.meta["probed"]
        self._supervision.begin(start)
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
        if is_first():
            tensorboard = TensorBoardWriter(place.tensorboard)
            self._writer = MultiWriter([JsonlWriter(place.metrics, resume_at=start), tensorboard])
            self._actions = StepActions(
                tensorboard, place.tensorboard, start, config.distill.steps, config.loop.profile_at
            )
        size = self._parts.dataset.image_shape, self._parts.dataset.num_classes
        flops = outer_step_flops(self._parts.outer_step(), *size) / self._parts.mesh.size
        with target_batches(self._inputs.feed(config), start) as batches:
            outcome = train(
                state,
                start=start,
                probed=probed,
                steps=config.distill.steps,
                config=config.loop,
                step=self._step(state),
                batches=batches,
                images_per_step=config.data.batch * config.pool.members,
                flops_per_step=flops,
                job=self,
                writer=self._writer,
                preemption=self._parts.preemption,
                ledger=self._supervision.ledger,
            )
        return outcome.state, outcome.step, outcome.stopped

    def _step(self, state: DistillState) -> Callable[[Any, Any], Any]:
        """The outer step, whose first call may compile for long."""
        step = make_outer_step(self._parts.outer_step(), state)
        compiled = False

        def watched(state: Any, batch: Any) -> Any:
            nonlocal compiled
            if compiled:
                return step(state, batch)
            with self._supervision.compiling():
                found = step(state, batch)
            compiled = True
            return found

        return watched

    def _accept(self, restored: Restored) -> None:
        for line in restored.damaged:
            _say(f"frepo-scale: {line}; using checkpoint {restored.step}")
        dataset = self._parts.dataset
        if restored.meta["dataset"] != dataset.fingerprint:
            raise other_data(self._place, dataset, restored.meta["dataset"])
        self._seconds_before = restored.meta["seconds"]
        self._at_chance = restored.meta["at_chance"]
        _say(f"resuming {self._place.root} at step {restored.step}")

    # What the loop asks for -----------------------------------------------------------------

    def check(self, state: DistillState) -> None:
        """Raises RunError if the loss was not finite at some step."""
        bad = int(state.first_bad_step)
        if bad != NEVER:
            self._checkpointer.wait()
            self._give_up(f"the loss is not finite at step {bad}")

    def _give_up(self, what: str) -> NoReturn:
        good = self._checkpointer.latest()
        self._writer.flush()  # what led here; no save will do it
        saved = "no checkpoint was saved before"
        if good is not None:
            saved = f"the last good checkpoint is {self._place.checkpoints / str(good)}"
        self._supervision.diverged()
        raise RunError(
            f"{what}; {saved}; try a higher --gin.RIDGE or a lower --gin.LEARNING_RATE in a new"
            " --workdir"
        )

    def _check_probe(self, step: int, accuracy: float) -> None:
        """Gives up a run whose sets have taught nothing for several probes."""
        limit, dataset = self._config.loop.chance_probes, self._parts.dataset
        if dataset.placement == "constant":  # of random images nothing can be learned
            return
        guessing = is_guessing(accuracy, dataset.num_classes, len(self._inputs.held_out))
        self._at_chance = self._at_chance + 1 if guessing else 0
        if limit and self._at_chance >= limit:
            self._checkpointer.wait()
            self._give_up(
                f"the probe accuracy {accuracy:.4f} at step {step} is that of guessing, as at"
                f" {limit} probes in a row (--gin.CHANCE_PROBES)"
            )

    def probe(self, state: DistillState, step: int) -> tuple[DistillState, Mapping[str, float]]:
        """Scores the set on the held-out part and keeps it if it is the best so far."""
        self._save_gallery(state.distilled, step)
        if not len(self._inputs.held_out):
            return state, {}
        found = self._parts.evaluator.probe(
            unpadded(state.distilled, self._parts.size),
            self._inputs.held_out,
            self._parts.dataset.num_classes,
        )
        mean = agree(found.mean)  # machines may round differently; the state may not
        self._check_probe(step, mean)
        if mean > float(state.best.score):
            state = keep_as_best(state, mean)
        return state, {"probe_accuracy": mean, "probe_accuracy_std": found.std}

    def save(self, state: DistillState, step: int, probed: int) -> None:
        """Saves the state with what a resumed run needs to know."""
        on_first(self._supervision.check_owner)
        facts = {
            "probed": probed,
            "seconds": self._seconds(),
            "at_chance": self._at_chance,
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
        images = unpadded(distilled, self._parts.size).images
        if not is_first():
            return
        pixels = self._preprocessing.to_pixels(images)
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
        on_first(self._supervision.check_owner)
        on_first(lambda: write_npz(place.distilled, export_))
        sets = {"distilled": selected}
        if selected_step != config.distill.steps:
            sets["distilled_last"] = last
        with self._supervision.ledger.during("evaluation"):
            scores = self._scores(sets, digest)
        result = scores | {
            "steps": config.distill.steps,
            "seconds": round(seconds, 1),
            "selected_step": selected_step,
            "selected_by": "held-out" if by_held_out else "last step",
            "held_out_images": len(dataset.held_out),
            "config_sha256": digest,
        }

        def write_result() -> None:
            self._supervision.check_owner()
            self._supervision.finished()
            write_text(place.result, json.dumps(result, indent=1) + "\n")
            write_run_report(place, self._source.name)
            write_text(place.done, "")  # last: without it the same command does this again
            print_result(place)

        on_first(write_result)

    def _scores(self, sets: dict[str, DistilledSet], settings: str) -> dict[str, Any]:
        """The final numbers; none where there are no images to measure them on."""
        config, dataset = self._config, self._parts.dataset
        if not len(dataset.test):
            return {}
        real = RealData(self._inputs.train, self._inputs.test, dataset.num_classes)
        scores = final_scores(
            self._parts.evaluator,
            config.evaluation,
            real,
            sets,
            config.distill.ipc,
            config.distill.seed,
            FinishedNets(self._place.finished_nets, sets, settings + dataset.fingerprint),
        )
        scores.setdefault("distilled_last", scores["distilled"])
        return scores

    def close(self) -> None:
        """Ends writers and waits for saves under way."""
        if self._actions is not None:
            self._actions.close()
        self._writer.close()
        self._checkpointer.close()
