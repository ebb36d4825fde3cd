"""What is planned: an algorithm of a recipe that can be built for any mesh, and its data."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.algorithm import Algorithm, Problem
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.state import TrainState, train_state_shapes, train_state_shardings
from frepo_scale.parallel.mesh import DATA, POOL


class _State(NamedTuple):
    """What the shapes of a state depend on, of one recipe."""

    rows: int
    pool_size: int
    members: int


@dataclass(frozen=True)
class Subject:
    """A recipe as plans see it.

    Attributes:
      recipe: its name.
      build: a mesh to the algorithm on it; raises InputError where it does not suit the mesh.
      image_shape: (H, W, C).
      num_classes: K.
      mesh: MESH_POOL and MESH_DATA of the recipe; 0: all remaining devices.
      steps: outer steps of the run.
      images: target and held-out images of the data set; None where the number is not known.
      whitened: whether its images are whitened.
      prepared: whether it is read from a prepared set.
      placement: `DATA_PLACEMENT` of the recipe.
      evaluation_batch: images of a step of an evaluation.
      workers: processes of a host that read a streamed set; 0: threads.
      states: shapes of states by rows, size of the pool and members, filled by `state_of`.
      sizes: bytes of states by the same and the mesh, filled by `state_bytes`.
    """

    recipe: str
    build: Callable[[Mesh], Algorithm]
    image_shape: tuple[int, int, int]
    num_classes: int
    mesh: tuple[int, int]
    steps: int
    images: int | None
    whitened: bool
    prepared: bool
    placement: str
    evaluation_batch: int
    workers: int = 0
    states: dict["_State", TrainState] = field(default_factory=dict, compare=False)
    sizes: dict[tuple["_State", tuple[int, ...]], tuple[int, int]] = field(
        default_factory=dict, compare=False
    )

    @property
    def pixels(self) -> int:
        """H W C."""
        return int(np.prod(self.image_shape))

    @property
    def problem(self) -> Problem:
        """The input of the algorithm, on a mesh of one device."""
        return self.build(abstract_mesh(1, 1)).problem


def abstract_mesh(pool: int, data: int) -> Mesh:
    """A mesh with axes "pool" and "data" and no devices, for shapes and shardings."""
    return cast(Mesh, AbstractMesh((pool, data), (POOL, DATA)))


def state_of(subject: Subject, algorithm: Algorithm) -> TrainState:
    """Shapes and dtypes of the state of the training loop."""
    key = _key(algorithm)
    if key not in subject.states:
        subject.states[key] = _shapes(subject, algorithm)
    return subject.states[key]


def _key(algorithm: Algorithm) -> _State:
    pool = algorithm.problem.pool
    return _State(algorithm.rows, pool.size, pool.members)


def _shapes(subject: Subject, algorithm: Algorithm) -> TrainState:
    """As `train_state_shapes`. A pool of hundreds of members takes seconds to trace: of FRePo one
    member is traced, and its arrays get the axis of the whole pool."""
    pool = algorithm.problem.pool
    if not isinstance(algorithm, FRePo) or (pool.size, pool.members) == (1, 1):
        rows = algorithm.rows
        start = DistilledSet(
            jax.ShapeDtypeStruct((rows, *subject.image_shape), np.float32),
            jax.ShapeDtypeStruct((rows, subject.num_classes), np.float32),
        )
        return train_state_shapes(algorithm, start)
    one = copy.copy(algorithm)
    one.problem = algorithm.problem._replace(pool=replace(pool, size=1, members=1))
    found = state_of(subject, one)
    members = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((pool.size, *x.shape[1:]), x.dtype), found.algorithm.pool
    )
    return found._replace(algorithm=found.algorithm._replace(pool=members))


def state_bytes(subject: Subject, algorithm: Algorithm) -> tuple[int, int]:
    """Bytes of the state on one device, and of the whole state once."""
    key = (_key(algorithm), tuple(algorithm.problem.mesh.shape.values()))
    if key not in subject.sizes:
        subject.sizes[key] = _state_bytes(algorithm, state_of(subject, algorithm))
    return subject.sizes[key]


def _state_bytes(algorithm: Algorithm, state: TrainState) -> tuple[int, int]:
    leaves = jax.tree.leaves(state)
    shardings = jax.tree.leaves(
        train_state_shardings(algorithm, state),
        is_leaf=lambda x: isinstance(x, jax.sharding.Sharding),
    )
    here = whole = 0
    for leaf, sharding in zip(leaves, shardings, strict=True):
        here += _bytes(sharding.shard_shape(leaf.shape), leaf.dtype)
        whole += _bytes(leaf.shape, leaf.dtype)
    return here, whole


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * int(dtype.itemsize)
