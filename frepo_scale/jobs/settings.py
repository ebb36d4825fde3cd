"""All settings of a run, and the recipe that they came from."""

from dataclasses import dataclass, field, fields
from typing import cast

from frepo_scale.core.checks import LARGEST_COUNT
from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import check_settings, class_name, setting
from frepo_scale.data.settings import DataConfig
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
class SeriesConfig:
    """A recipe as several runs, each on a part of the data, and an evaluation of all their sets."""

    by: str | None = setting(
        None,
        "SERIES",
        "classes | chunks: one run for each part of the classes, or of the training images; None:"
        " one run",
        choices=("classes", "chunks"),
    )
    parts: int = setting(5, "SERIES_PARTS", "parts into which a series divides them", low=2)
    runs: int = setting(
        0, "SERIES_RUNS", "how many of the parts are distilled, from the first on; 0: all", low=0
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)
        if self.runs > self.parts:
            raise InputError(
                f"SERIES_RUNS = {self.runs} with SERIES_PARTS = {self.parts}",
                f"at most {self.parts}",
                f"use --gin.SERIES_RUNS={self.parts}",
            )


@dataclass(frozen=True)
class PretrainConfig:
    """How `frepo-scale pretrain` trains nets; a run does not use these settings."""

    steps: int = setting(
        5_000, "PRETRAIN_STEPS", "Adam steps of a net", low=1, high=LARGEST_COUNT, operational=True
    )
    batch: int = setting(256, "PRETRAIN_BATCH", "images of a step", low=1, operational=True)
    learning_rate: float = setting(
        1e-3,
        "PRETRAIN_LEARNING_RATE",
        "learning rate of Adam, after a warm-up and with cosine decay",
        above=0,
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for a value out of its bounds."""
        check_settings(self)


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
    series: SeriesConfig = field(default_factory=SeriesConfig)
    outer: OuterConfig = field(default_factory=OuterConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self) -> None:
        """Raises InputError for a part of another class, or settings that exclude each other."""
        for part in fields(self):
            value = getattr(self, part.name)
            if not isinstance(value, cast(type, part.type)):
                raise InputError(
                    f"Run.{part.name} = {value!r}", f"@{class_name(cast(type, part.type))}()"
                )
        name = {"classes": "CLASSES", "chunks": "CHUNK_OF", None: ""}[self.series.by]
        given = {"CLASSES": self.data.classes, "CHUNK_OF": self.data.chunk_of}.get(name)
        if given is not None:
            raise InputError(
                f"{name} = {given!r} with SERIES = {self.series.by!r}",
                f"one of the two: the series sets {name} for each of its runs",
                f"use --gin.SERIES=None for a single run, or --gin.{name}=None",
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
