"""All settings of a run, and the recipe that they came from."""

from dataclasses import dataclass, field, fields
from typing import cast

from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import class_name
from frepo_scale.data.dataset import DataConfig
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.outer import OuterConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.registry import AlgorithmConfig
from frepo_scale.evaluate.protocol import EvaluationConfig
from frepo_scale.models.registry import NetConfig
from frepo_scale.parallel.mesh import MeshConfig
from frepo_scale.regression.ridge import RidgeConfig
from frepo_scale.train.config import LoopConfig


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run, by part."""

    data: DataConfig
    distill: DistillConfig
    ridge: RidgeConfig
    net: NetConfig
    pool: PoolConfig
    mesh: MeshConfig
    loop: LoopConfig
    evaluation: EvaluationConfig
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)

    def __post_init__(self) -> None:
        """Raises InputError for a part of another class."""
        for part in fields(self):
            value = getattr(self, part.name)
            if not isinstance(value, cast(type, part.type)):
                raise InputError(
                    f"Run.{part.name} = {value!r}", f"@{class_name(cast(type, part.type))}()"
                )


@dataclass(frozen=True)
class Recipe:
    """A recipe as read.

    Attributes:
      name: the name of the file without `.gin`.
      config: the checked settings.
      text: everything bound, in one file without includes: reading it gives `config` again.
      operative: what the run uses, defaults included.
    """

    name: str
    config: RunConfig
    text: str
    operative: str
