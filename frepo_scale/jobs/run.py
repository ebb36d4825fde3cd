"""One run: its settings, devices, data, nets and algorithm, checked before compute is spent."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset, load_dataset
from frepo_scale.data.placement import room_of
from frepo_scale.data.types import Rows
from frepo_scale.distill.algorithm import Algorithm, Problem
from frepo_scale.distill.registry import build_algorithm
from frepo_scale.distill.synthetic import choose_rows, real_set
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.protocol import Evaluator
from frepo_scale.jobs.settings import Recipe, RunConfig
from frepo_scale.models.registry import build_net
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.mesh import DATA, build_mesh, check_sizes


@dataclass(frozen=True)
class Run:
    """What a recipe stands for on these devices.

    Attributes:
      recipe: name, settings and texts.
      mesh: the devices.
      dataset: the real images.
      algorithm: the distillation algorithm, with the pool's net.
    """

    recipe: Recipe
    mesh: Mesh
    dataset: Dataset
    algorithm: Algorithm

    @property
    def config(self) -> RunConfig:
        """The settings."""
        return self.recipe.config

    @property
    def size(self) -> int:
        """Synthetic images, N."""
        return self.algorithm.problem.size

    def start(self, target: Rows) -> DistilledSet:
        """Random images of the target part, as net inputs, with initial labels.

        Args:
          target: the target part as float32 net inputs.
        """
        config = self.config.distill
        return real_set(target, self.dataset.num_classes, config.ipc, _start_key(self.config))


def build_run(recipe: Recipe) -> Run:
    """Reads the data of a recipe and builds its nets and algorithm.

    Raises:
      InputError: anything in the recipe is wrong, or does not fit together.
    """
    config = recipe.config
    # First what costs nothing to check: a large data set takes minutes to read.
    mesh = build_mesh(config.mesh)
    check_sizes(mesh, config.pool.members, config.data.batch)
    dataset = load_data(config, mesh)
    labels, classes = dataset.train.labels, dataset.num_classes
    choose_rows(labels, classes, config.distill.ipc, _start_key(config))  # checks IPC
    build_net(config.net.for_evaluation(), classes, dataset.image_shape)
    problem = problem_of(config, mesh, classes, dataset.image_shape)
    return Run(recipe, mesh, dataset, build_algorithm(config.algorithm, problem))


def problem_of(
    config: RunConfig, mesh: Mesh, num_classes: int, image_shape: tuple[int, ...]
) -> Problem:
    """What the algorithm is given.

    Args:
      config: the settings.
      mesh: the devices, which may be of another machine.
      num_classes: K.
      image_shape: (H, W, C).

    Raises:
      InputError: no net of these settings exists for such images.
    """
    module = build_net(config.net, num_classes, image_shape, mesh.shape[DATA] > 1)
    size = num_classes * config.distill.ipc
    return Problem(module, config.distill, config.pool, config.ridge, mesh, size, config.data.batch)


def load_data(config: RunConfig, mesh: Mesh) -> Dataset:
    """The data set of a run.

    Raises:
      InputError: it cannot be read, or does not suit the settings.
    """
    dataset = load_dataset(config.data, room_of(mesh))
    if config.evaluation.full_data and dataset.placement in ("stream", "constant"):
        raise InputError(
            f"FULL_DATA = True with images placed as {dataset.placement!r}",
            "a data set that is held in memory as a whole",
            "use --gin.FULL_DATA=False or --gin.DATA_PLACEMENT=memory",
        )
    return dataset


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
    flip = config.evaluation.flip
    return AugmentConfig(flip=dataset.spec.augment_flip if flip is None else flip)


def evaluation_recipe(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """What others need to train nets in the way the result was measured."""
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
        "augment": vars(augmentation(config, dataset)),
    }


def _start_key(config: RunConfig) -> jax.Array:
    return key_for(config.distill.seed, Purpose.SYNTHETIC_INIT)
