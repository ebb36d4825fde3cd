"""The parts of a run: its configuration, and the objects built and checked from it."""

from dataclasses import dataclass, fields
from typing import Any, cast

import flax.linen as nn
import jax
from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import DataConfig, Dataset, load_dataset
from frepo_scale.data.placement import room_of
from frepo_scale.data.types import Rows
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.step import OuterStep
from frepo_scale.distill.synthetic import choose_rows, real_set
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.mesh import DATA, MeshConfig, build_mesh, check_sizes
from frepo_scale.regression.ridge import RidgeConfig
from frepo_scale.train.loop import LoopConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is configured by; recipes bind these parts."""

    data: DataConfig
    distill: DistillConfig
    ridge: RidgeConfig
    net: NetConfig
    pool: PoolConfig
    mesh: MeshConfig
    loop: LoopConfig
    evaluation: EvaluationConfig

    def __post_init__(self) -> None:
        """Refuses what is not one of the parts, such as the class itself."""
        for part in fields(self):
            value = getattr(self, part.name)
            if not isinstance(value, cast(type, part.type)):
                name = part.name.capitalize()
                raise InputError(f"Run.{part.name} = {value!r}", f"@{name}()")


@dataclass(frozen=True)
class Source:
    """The recipe a configuration came from: its name, its full text, and what is operative."""

    name: str
    text: str
    operative: str


class Parts:
    """The objects of one configuration, built and checked before any compute is spent."""

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh | None = None,
        preemption: Preemption | None = None,
    ) -> None:
        """Builds and checks.

        Args:
          config: what is asked for.
          mesh: where to evaluate only, which any machine can; None: that of the configuration.
          preemption: the flag to poll; None: a new one.

        Raises:
          InputError: anything in the configuration is wrong, or does not fit together.
        """
        self.config = config
        # First what costs nothing to check: a large data set takes minutes to read.
        self.mesh: Mesh = build_mesh(config.mesh) if mesh is None else mesh
        if mesh is None:
            check_sizes(self.mesh, config.pool.members, config.data.batch)
        self.dataset: Dataset = load_dataset(config.data, room_of(self.mesh))
        dataset = self.dataset
        if config.evaluation.full_data and dataset.placement in ("stream", "constant"):
            raise InputError(
                f"FULL_DATA = True with images placed as {dataset.placement!r}",
                "a set that is held whole",
                "leave FULL_DATA out, or use --gin.DATA_PLACEMENT=memory",
            )
        # Checks IPC against the classes.
        choose_rows(dataset.train.labels, dataset.num_classes, config.distill.ipc, self._key())
        self.module: nn.Module = build_net(
            config.net, dataset.num_classes, dataset.image_shape, self.mesh.shape[DATA] > 1
        )
        self.evaluation_module: nn.Module = build_net(
            config.net.for_evaluation(), dataset.num_classes, dataset.image_shape
        )
        self.preemption = preemption or Preemption()
        self.evaluator = Evaluator(
            self.evaluation_module,
            config.evaluation,
            augmentation(config, dataset),
            config.distill.seed,
            self.preemption,
        )

    @property
    def size(self) -> int:
        """Synthetic images, N."""
        return self.dataset.num_classes * self.config.distill.ipc

    def outer_step(self) -> OuterStep:
        """What the outer step is made of."""
        config = self.config
        return OuterStep(
            self.module,
            config.distill,
            config.pool,
            config.ridge,
            self.mesh,
            self.size,
            config.data.batch,
        )

    def start(self, target: Rows) -> DistilledSet:
        """Random images of the target part, as net inputs, with initial labels."""
        return real_set(target, self.dataset.num_classes, self.config.distill.ipc, self._key())

    def _key(self) -> jax.Array:
        return key_for(self.config.distill.seed, Purpose.SYNTHETIC_INIT)


def augmentation(config: RunConfig, dataset: Dataset) -> AugmentConfig:
    """How the nets of an evaluation see their images."""
    told = config.evaluation.flip
    return AugmentConfig(flip=dataset.spec.augment_flip if told is None else told)


def evaluation_recipe(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
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
        "augment": vars(augmentation(config, dataset)),
    }
