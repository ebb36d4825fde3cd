"""The seam between the framework and a distillation algorithm.

An algorithm is a class with the methods of `Algorithm`. The loop, checkpoints, probes, `plan` and
the benchmarks use these methods only. docs/how-to/algorithm.md has an example
of 40 lines.

Legend: N synthetic images, n the rows that the algorithm stores (N, or more so that they divide
over the mesh), K classes, B target images per outer step.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.outer import OuterConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.parallel.mesh import over
from frepo_scale.regression.ridge import RidgeConfig

State = Any
"""A NamedTuple of arrays, pytrees included, with a field `step` (int32 scalar: outer steps done).

No field may be called `best` or `first_bad_step`: the framework adds those.
"""
Metrics = dict[str, jax.Array]


class Problem(NamedTuple):
    """The input of an algorithm; all of it static.

    Attributes:
      module: the net of the recipe, `module.apply(variables, images, train=...)` returns
        (logits (B, K), features (B, d)).
      config: steps, images per class, seed, learning rate and chunk size of the distilled set.
      pool: settings of a pool of nets, for algorithms that have one.
      ridge: settings of the regression, for algorithms that have one.
      mesh: the devices, with axes "pool" and "data".
      size: synthetic images, N.
      batch: target images of one pool member.
      outer: loss and optimiser of the set, for algorithms that use them.
      augment: of target and synthetic images in an outer step; None: none.
      nets: flax variables (`params`, `batch_stats`; host arrays) of each file of `POOL_WEIGHTS`;
        empty in plans, which read no files.
    """

    module: nn.Module
    config: DistillConfig
    pool: PoolConfig
    ridge: RidgeConfig
    mesh: Mesh
    size: int
    batch: int
    outer: OuterConfig = OuterConfig()
    augment: AugmentConfig | None = None
    nets: tuple[Any, ...] = ()


class Algorithm(ABC):
    """A distillation algorithm on one problem.

    Attributes:
      problem: its input.
      progress: names of the metrics that the progress bar and log lines show.
    """

    progress: tuple[str, ...] = ("loss",)

    def __init__(self, problem: Problem) -> None:
        """Takes the problem; computes nothing.

        Raises:
          InputError: the problem does not suit the algorithm.
        """
        self.problem = problem

    @property
    def batch_size(self) -> int:
        """Target images per outer step, over all devices."""
        return self.problem.batch

    @property
    def rows(self) -> int:
        """n, the rows of the images and labels that `init` receives; rows from N on are zero."""
        return self.problem.size

    @abstractmethod
    def init(self, start: DistilledSet) -> State:
        """The state before outer step 0. Traced by `jax.jit`.

        Args:
          start: real images (n, H, W, C) and initial labels (n, K).
        """

    def loaded(self, state: State) -> State:
        """The state of `init` with the arrays of `Problem.nets` in it; not traced.

        Arrays in a traced function would become constants of the compiled program.
        """
        return state

    @abstractmethod
    def step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """One outer step. Traced by `jax.jit`; the state is donated.

        Args:
          state: as `init` or the step before returned it.
          batch: `batch_size` target images, sharded over all devices by rows.

        Returns:
          The next state, and scalars by name; `loss` must be among them.
        """

    @abstractmethod
    def distilled(self, state: State) -> DistilledSet:
        """The set (n rows) that is probed, evaluated and exported."""

    def shardings(self, state: State) -> Any:
        """A state with a sharding for every leaf; by default all devices hold everything.

        Args:
          state: a state of arrays or of `jax.ShapeDtypeStruct`.
        """
        return jax.tree.map(lambda _: over(self.problem.mesh), state)

    def without_padding(self, state: State) -> State:
        """The state as checkpoints hold it, the same on every mesh. Traced by `jax.jit`."""
        return state

    def with_padding(self, state: State) -> State:
        """The inverse of `without_padding` for this mesh. Traced by `jax.jit`."""
        return state

    def warning(self, row: Mapping[str, float]) -> str:
        """A line for the user about the metrics of a step; empty if there is nothing to say.

        The log prints the first one after each start of a run.
        """
        del row
        return ""

    def summary(self, rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], str]:
        """Facts for `result.json`, and a line for the end of the run or an empty one.

        Args:
          rows: all rows of metrics of the run, one every `LOG_EVERY` steps.
        """
        del rows
        return {}, ""

    def flops(self, image_shape: tuple[int, ...], num_classes: int) -> float:
        """Operations of one outer step over all devices; NaN where they are not known."""
        del image_shape, num_classes
        return float("nan")
