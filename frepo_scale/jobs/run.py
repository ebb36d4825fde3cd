"""One run: its settings, devices, data, nets and algorithm, checked before compute is spent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from frepo_scale.core.identity import scientific_settings, settings_sha256
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import room_of
from frepo_scale.data.sources import spec_for
from frepo_scale.data.sources.specs import DatasetSpec
from frepo_scale.data.subset import chosen_classes
from frepo_scale.data.types import Rows
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.algorithm import Algorithm, Problem
from frepo_scale.distill.frozen import check_frozen
from frepo_scale.distill.outer import without_effect
from frepo_scale.distill.registry import algorithm_class, build_algorithm
from frepo_scale.distill.synthetic import centred_labels, choose_rows, hard_labels, real_set
from frepo_scale.evaluate.evaluation import Evaluation, EvaluationContext, RealData, Task
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.protocol import Evaluator
from frepo_scale.evaluate.registry import load_evaluations
from frepo_scale.jobs.net_files import encoders_of, with_nets
from frepo_scale.jobs.settings import Recipe, RunConfig
from frepo_scale.models.registry import build_net
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.mesh import DATA, build_mesh, check_sizes


@dataclass(frozen=True)
class Run:
    """The run that a recipe describes, built for these devices.

    Attributes:
      recipe: name, settings and texts.
      mesh: the devices.
      dataset: the real images.
      algorithm: the distillation algorithm, with the pool's net.
      evaluations: the evaluations of the result, by name.
    """

    recipe: Recipe
    mesh: Mesh
    dataset: Dataset
    algorithm: Algorithm
    evaluations: dict[str, Evaluation]

    @property
    def config(self) -> RunConfig:
        """The settings."""
        return self.recipe.config

    @property
    def size(self) -> int:
        """Synthetic images, N."""
        return self.algorithm.problem.size

    def print_settings_without_effect(self) -> None:
        """Prints a line for each setting that changes nothing in this run."""
        for line in without_effect(self.config.outer, self.config.pool, self.size):
            print(f"frepo-scale: {line}")

    def start(self, target: Rows) -> DistilledSet:
        """Random images of the target part, as net inputs, with initial labels.

        Args:
          target: the target part as float32 net inputs.
        """
        config = self.config
        classes, ipc = self.dataset.num_classes, config.distill.ipc
        start = real_set(target, classes, ipc, _start_key(config))
        if config.outer.label_scale == "one":
            hard = hard_labels(self.dataset.classes, ipc)
            return start._replace(labels=centred_labels(hard, classes))
        return start


def build_run(recipe: Recipe) -> Run:
    """Reads the data of a recipe and builds its nets and algorithm.

    Raises:
      InputError: anything in the recipe is wrong, or does not fit together.
    """
    config = recipe.config
    # First what costs nothing to check: a large data set takes minutes to read.
    mesh = build_mesh(config.mesh)
    check_sizes(mesh, config.pool.members, config.data.batch)
    check_frozen(config.pool)
    algorithm_class(config.algorithm)
    load_evaluations(config.evaluation.evaluations)
    dataset = load_dataset(config.data, room_of(mesh))
    labels, classes = dataset.train.labels, dataset.num_classes
    choose_rows(labels, classes, config.distill.ipc, _start_key(config))  # checks IPC
    problem = problem_of(config, mesh, classes, dataset.image_shape)
    problem = with_nets(problem, config, classes, dataset.image_shape)
    algorithm = build_algorithm(config.algorithm, problem)
    return Run(recipe, mesh, dataset, algorithm, build_evaluations(config, dataset))


def problem_of(
    config: RunConfig, mesh: Mesh, num_classes: int, image_shape: tuple[int, ...]
) -> Problem:
    """The input of the algorithm.

    Args:
      config: the settings.
      mesh: the devices, which may be of another machine.
      num_classes: K.
      image_shape: (H, W, C).

    Raises:
      InputError: no net of these settings exists for such images.
    """
    module = build_net(config.net, num_classes, image_shape, mesh.shape[DATA] > 1)
    size = len(chosen_classes(config.data.classes, num_classes)) * config.distill.ipc
    return Problem(
        module,
        config.distill,
        config.pool,
        config.ridge,
        mesh,
        size,
        config.data.batch,
        config.outer,
        _augmentation(config, spec_for(config.data.name)) if config.distill.augment else None,
    )


def build_evaluations(config: RunConfig, dataset: Dataset) -> dict[str, Evaluation]:
    """The evaluations of a recipe by name, checked against its data.

    Raises:
      InputError: one cannot be imported or refuses the data, or such images have no evaluation net.
    """
    task = task_of(
        config,
        dataset.image_shape,
        dataset.num_classes,
        len(dataset.held_out),
        dataset.placement,
    )
    return load_evaluations(config.evaluation.evaluations, task)


def task_of(
    config: RunConfig,
    image_shape: tuple[int, ...],
    num_classes: int,
    held_out: int,
    placement: str,
) -> Task:
    """What the evaluations of a recipe check themselves against.

    Args:
      config: the settings.
      image_shape: (H, W, C).
      num_classes: K.
      held_out: number of held-out images.
      placement: of the training images, see `data.placement`.

    Raises:
      InputError: such images have no evaluation net.
    """
    net = config.net.for_evaluation()
    build_net(net, num_classes, image_shape)
    return Task(
        config.evaluation,
        net,
        image_shape,
        num_classes,
        held_out,
        placement not in ("stream", "constant"),
        config.series.by,
        encoders_of(config, num_classes, image_shape),
    )


# Settings that add measurements and change none.
_ADDED = ("evaluations", "full_data", "soft_random", "cross_nets", "cross_runs")


def measurement_settings(config: RunConfig) -> dict[str, Any]:
    """Dotted name to value of every setting on which a measurement of one net may depend."""
    settings = scientific_settings(config)
    return {
        name: value
        for name, value in settings.items()
        if name not in [f"evaluation.{added}" for added in _ADDED]
    }


def evaluation_context(
    config: RunConfig,
    evaluator: Evaluator,
    real: RealData,
    sets: dict[str, DistilledSet],
    preprocessing: Preprocessing,
    finished: Path | None,
    fingerprint: str,
    selected_by: str,
    selected_step: int | None = None,
) -> EvaluationContext:
    """The input of the evaluations of a recipe.

    Args:
      config: the settings.
      evaluator: trains and tests nets.
      real: the real images as net inputs.
      sets: distilled sets by name; "distilled" must be among them.
      preprocessing: from pixels to net inputs and back.
      finished: a file for the scores of nets that are done, for a restart; None: no file.
      fingerprint: of the data.
      selected_by: how "distilled" was selected: "held-out", "last step", or "" if unknown.
      selected_step: the outer step of "distilled"; None: unknown.
    """
    settings = measurement_settings(config)
    return EvaluationContext(
        sets=sets,
        real=real,
        ipc=len(sets["distilled"].images) // len(real.classes),
        seed=config.distill.seed,
        config=config.evaluation,
        evaluator=evaluator,
        finished=FinishedNets(finished, sets, settings_sha256(settings) + fingerprint),
        net=config.net.for_evaluation(),
        preprocessing=preprocessing,
        selected_by=selected_by,
        selected_step=selected_step,
        encoders=encoders_of(config, real.num_classes, sets["distilled"].images.shape[1:]),
    )


def build_evaluator(config: RunConfig, dataset: Dataset, preemption: Preemption) -> Evaluator:
    """Trains and tests fresh nets with the protocol of a recipe.

    Raises:
      InputError: no net of these settings exists for such images.
    """
    module: nn.Module = build_net(
        config.net.for_evaluation(), dataset.num_classes, dataset.image_shape
    )
    return Evaluator(
        module, config.evaluation, augmentation(config, dataset), config.distill.seed, preemption
    )


def augmentation(config: RunConfig, dataset: Dataset) -> AugmentConfig:
    """How the images of an evaluation are augmented."""
    return _augmentation(config, dataset.spec)


def _augmentation(config: RunConfig, spec: DatasetSpec) -> AugmentConfig:
    flip = config.evaluation.flip
    return AugmentConfig(flip=spec.augment_flip if flip is None else flip)


def _start_key(config: RunConfig) -> jax.Array:
    return key_for(config.distill.seed, Purpose.SYNTHETIC_INIT)
