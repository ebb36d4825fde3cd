"""The composition root: builds the objects of a job, calls the loop, writes what a run leaves."""

import importlib.metadata
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.identity import scientific_settings, settings_sha256
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import DataConfig, Dataset, load_dataset
from frepo_scale.data.pipeline import target_batches
from frepo_scale.data.types import Split
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.step import (
    NEVER,
    DistillConfig,
    DistillState,
    initial_state,
    keep_as_best,
    make_outer_step,
)
from frepo_scale.distill.synthetic import hard_labels, real_set
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.baselines import RealData, final_scores
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.export.atomic import whole_file
from frepo_scale.export.formats import Export, read_npz, write_folder, write_npz
from frepo_scale.export.gallery import save_gallery
from frepo_scale.export.report import format_table, write_report
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.ops.checkpoint import Checkpointer, Restored
from frepo_scale.ops.metrics import JsonlWriter, MetricWriter, MultiWriter, read_jsonl
from frepo_scale.ops.preemption import Preempted, Preemption
from frepo_scale.ops.tensorboard import StepActions, TensorBoardWriter
from frepo_scale.ops.workdir import Workdir
from frepo_scale.overview import overview, written_bytes
from frepo_scale.regression.ridge import RidgeConfig
from frepo_scale.train.loop import LoopConfig, train


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is configured by; recipes bind these parts."""

    data: DataConfig
    distill: DistillConfig
    ridge: RidgeConfig
    net: NetConfig
    pool: PoolConfig
    loop: LoopConfig
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class Source:
    """The recipe a configuration came from: its name, its full text, and what is operative."""

    name: str
    text: str
    operative: str


class _Parts:
    """The objects of one configuration, built and checked before any compute is spent."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.dataset: Dataset = load_dataset(config.data)
        dataset = self.dataset
        self.module: nn.Module = build_net(config.net, dataset.num_classes, dataset.image_shape)
        self.evaluation_module: nn.Module = build_net(
            config.net.for_evaluation(), dataset.num_classes, dataset.image_shape
        )
        self.preemption = Preemption()
        self.evaluator = Evaluator(
            self.evaluation_module,
            config.evaluation,
            AugmentConfig(flip=dataset.spec.augment_flip),
            config.distill.seed,
            self.preemption,
        )

    def start(self, images: np.ndarray) -> DistilledSet:
        """Random rows of `images` (the target part, in whatever form) with initial labels."""
        config, dataset = self.config, self.dataset
        key = key_for(config.distill.seed, Purpose.SYNTHETIC_INIT)
        return real_set(
            images, dataset.train.labels, dataset.num_classes, config.distill.ipc, key
        )


def dry_run(config: RunConfig, source: Source, workdir: Path) -> int:
    """Builds everything, prints the configuration and what it needs; trains and writes nothing."""
    settings = scientific_settings(config)
    Workdir(workdir).check_identity(settings)
    parts = _Parts(config)
    parts.start(parts.dataset.train.images)  # checks IPC against the classes
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
    place.check_identity(settings)
    if place.result.exists():
        print(f"{source.name} is finished.")
        _print_result(place)
        return 0
    parts = _Parts(config)
    parts.start(parts.dataset.train.images)
    place.open(settings, written_bytes(parts.module, parts.dataset, config.distill, config.pool))
    place.claim(settings)
    _write_text(place.config, source.text)
    _write_text(place.operative_config, source.operative)
    parts.preemption.install()
    job = _Distillation(parts, source, place)
    try:
        return job.run()
    except Preempted:
        print(f"stopped; the same command goes on from {place.root}")
        return parts.preemption.exit_code
    finally:
        job.close()


class _Distillation:
    """One run in one workdir; also what the loop asks to probe and save."""

    def __init__(self, parts: _Parts, source: Source, place: Workdir) -> None:
        self._parts, self._source, self._place = parts, source, place
        self._config = parts.config
        dataset = parts.dataset
        self._preprocessing = _preprocessing(place, dataset)
        self._train = _inputs(self._preprocessing, dataset.train)
        self._held_out = _inputs(self._preprocessing, dataset.held_out)
        self._checkpointer = Checkpointer(place.checkpoints)
        self._writer: MetricWriter = MultiWriter([])
        self._actions: StepActions | None = None
        self._seconds_before, self._started = 0.0, time.monotonic()

    def run(self) -> int:
        config, place = self._config, self._place
        state = initial_state(
            self._parts.module, config.distill, config.pool, self._parts.start(self._train.images)
        )
        restored = self._checkpointer.restore(state)
        start, probed = 0, NEVER
        if restored is not None:
            self._accept(restored)
            state, start, probed = restored.state, restored.step, restored.meta["probed"]
        if start < config.distill.steps or probed != start:
            state, start, stopped = self._train_from(state, start, probed)
            if stopped:
                raise Preempted
        self._checkpointer.wait()
        self._finish(state, place)
        return 0

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
            step=make_outer_step(self._parts.module, config.distill, config.pool, config.ridge),
            batches=target_batches(
                self._train.images, self._train.labels, data.batch, config.distill.seed, start
            ),
            job=self,
            writer=self._writer,
            preemption=self._parts.preemption,
        )
        return outcome.state, outcome.step, outcome.stopped

    def _accept(self, restored: Restored) -> None:
        for line in restored.damaged:
            print(f"frepo-scale: {line}; using checkpoint {restored.step}")
        there, here = restored.meta["dataset"], self._parts.dataset.fingerprint
        if there != here:
            raise InputError(
                f"the data at {self._parts.dataset.origin} are not those {self._place.root} was"
                " started with",
                f"pixels and labels with sha256 {there[:12]}..., found {here[:12]}...",
                "give the original data with --gin.DATA_DIR, or start a new --workdir",
            )
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
            state.distilled, self._held_out, self._parts.dataset.num_classes
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
        self._checkpointer.save(step, state, facts)

    def after_step(self, step: int) -> None:
        """Hands the step to clu's periodic actions."""
        if self._actions is not None:
            self._actions.after_step(step)

    # ----------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _save_gallery(self, distilled: DistilledSet, step: int) -> None:
        path = self._place.gallery / f"step_{step:07d}.png"
        pixels = self._preprocessing.to_pixels(np.asarray(distilled.images))
        save_gallery(path, pixels, self._parts.dataset.class_names, self._config.distill.ipc)

    def _finish(self, state: DistillState, place: Workdir) -> None:
        """Writes the distilled set first, then spends the final evaluation on it."""
        config, dataset = self._config, self._parts.dataset
        seconds = self._seconds()
        by_held_out = int(state.best.step) != NEVER
        selected_step = int(state.best.step) if by_held_out else config.distill.steps
        last = DistilledSet(*(np.asarray(x) for x in state.distilled))
        selected = last
        if by_held_out:
            selected = DistilledSet(*(np.asarray(x) for x in state.best.distilled))
        settings = scientific_settings(config)
        digest = settings_sha256(settings)
        export_ = Export(
            images=selected.images,
            labels=selected.labels,
            hard_labels=hard_labels(dataset.num_classes, config.distill.ipc),
            class_names=dataset.class_names,
            preprocessing=self._preprocessing,
            evaluation=_evaluation_recipe(config, dataset),
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
        real = RealData(self._train, _inputs(self._preprocessing, dataset.test), dataset.num_classes)
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
        _write_text(place.result, json.dumps(result, indent=1) + "\n")
        _write_report(place, self._source.name)
        _print_result(place)

    def close(self) -> None:
        if self._actions is not None:
            self._actions.close()
        self._writer.close()
        self._checkpointer.close()


def recipe_text(target: Path) -> tuple[str, str]:
    """Name and text of the recipe a workdir or an export came from."""
    if target.is_dir():
        place = Workdir(target)
        if not place.config.exists():
            raise InputError(f"{target} is not a run's workdir", f"a folder with {place.config.name}")
        return target.name, place.config.read_text()
    provenance = read_npz(target).provenance
    if "config" not in provenance:
        raise InputError(f"{target} does not say which recipe made it", "provenance with a config")
    return str(provenance.get("recipe", target.stem)), str(provenance["config"])


def evaluate(config: RunConfig, target: Path) -> int:
    """Evaluates a finished run or an export with fresh nets and prints the table.

    A workdir also gets `evaluation.json`; its `result.json` stays as it is.
    """
    exported = read_npz(_finished(target).distilled if target.is_dir() else target)
    parts = _Parts(config)
    dataset = parts.dataset
    if exported.images.shape[1:] != dataset.image_shape or (
        exported.labels.shape[1] != dataset.num_classes
    ):
        raise InputError(
            f"{target} holds {exported.images.shape[1:]} images of {exported.labels.shape[1]}"
            f" classes, {config.data.name} {dataset.image_shape} images of {dataset.num_classes}",
            "a data set of the same shape",
        )
    parts.preemption.install()
    preprocessing = exported.preprocessing
    real = RealData(
        _inputs(preprocessing, dataset.train),
        _inputs(preprocessing, dataset.test),
        dataset.num_classes,
    )
    ipc = len(exported.images) // dataset.num_classes
    sets = {"distilled": DistilledSet(exported.images, exported.labels)}
    try:
        scores = final_scores(
            parts.evaluator, config.evaluation, real, sets, ipc, config.distill.seed
        )
    except Preempted:
        print("stopped; nothing was written")
        return parts.preemption.exit_code
    print(format_table(scores))
    if target.is_dir():
        place = Workdir(target)
        scores["evaluation"] = _evaluation_recipe(config, dataset)
        _write_text(place.evaluation, json.dumps(scores, indent=1) + "\n")
        print(f"written to {place.evaluation}")
    return 0


def report(workdir: Path) -> int:
    """Writes a run's report from what it has left so far."""
    name, _ = recipe_text(workdir)
    place = Workdir(workdir)
    _write_report(place, name)
    print(f"written to {place.report}")
    return 0


def export(workdir: Path, form: str, out: Path) -> int:
    """Copies a finished run's distilled set to `out`, as "npz" or "folder"."""
    exported = read_npz(_finished(workdir).distilled)
    if form == "npz":
        if out.exists():
            raise InputError(f"{out} exists", "a new file", "choose another --out")
        write_npz(out, exported)
    else:
        write_folder(out, exported)
    print(f"written to {out}")
    return 0


def _finished(workdir: Path) -> Workdir:
    place = Workdir(workdir)
    if not place.distilled.exists():
        raise InputError(
            f"{workdir} has no {place.distilled.name}",
            "the workdir of a run that has reached its last step",
            "resume it with the same frepo-scale distill command first",
        )
    return place


def _inputs(preprocessing: Preprocessing, split: Split) -> Split:
    """The split with float32 net inputs instead of pixels: whitened once, kept in memory."""
    return Split(preprocessing.apply(split.images), split.labels)


def _preprocessing(place: Workdir, dataset: Dataset) -> Preprocessing:
    """From the workdir, else fitted and left there: a 64 px whitening takes minutes."""
    if place.preprocessing.exists():
        with np.load(place.preprocessing, allow_pickle=False) as stored:
            if str(stored["dataset"]) == dataset.fingerprint:
                return Preprocessing.from_arrays(dict(stored))
    fitted = dataset.fit_preprocessing()
    with whole_file(place.preprocessing) as file:
        np.savez(file, dataset=np.array(dataset.fingerprint), **fitted.arrays())
    return fitted


def _evaluation_recipe(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """What somebody else needs to train nets as the result was measured."""
    size = dataset.num_classes * config.distill.ipc
    net, protocol = config.net.for_evaluation(), config.evaluation
    return {
        "net": net.name,
        "width": net.width,
        "depth": net.depth,
        "norm": net.norm,
        "nets": protocol.nets,
        "steps": protocol.steps_for(size),
        "batch": min(size, protocol.batch),
        "optimiser": "adam",
        "learning_rate": protocol.learning_rate,
        "schedule": "linear warm-up over min(500, steps/2), cosine to 1 %",
        "loss": "mean over the batch of half the squared error to the labels",
        "augment": vars(AugmentConfig(flip=dataset.spec.augment_flip)),
    }


def _write_report(place: Workdir, name: str) -> None:
    galleries = [(int(p.stem.removeprefix("step_")), p) for p in place.gallery.glob("step_*.png")]
    result = json.loads(place.result.read_text()) if place.result.exists() else {}
    write_report(
        place.report,
        title=name,
        result=result,
        metrics=read_jsonl(place.metrics),
        galleries=galleries,
        operative_config=place.operative_config.read_text(),
        paths=_paths(place),
    )


def _paths(place: Workdir) -> dict[str, str]:
    return {
        "distilled set": str(place.distilled),
        "result": str(place.result),
        "report": str(place.report),
        "gallery": str(place.gallery),
        "metrics": str(place.metrics),
        "TensorBoard": str(place.tensorboard),
        "checkpoints": str(place.checkpoints),
    }


def _print_result(place: Workdir) -> None:
    print("\n" + format_table(json.loads(place.result.read_text())) + "\n")
    for what, path in _paths(place).items():
        print(f"{what:14} {path}")


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())
