"""The parameters, memory and disk space that a run needs, from shapes alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset
from frepo_scale.data.whitening import whitened_size
from frepo_scale.distill.algorithm import Algorithm
from frepo_scale.distill.state import TrainState, train_state_shapes
from frepo_scale.models.registry import feature_dim
from frepo_scale.ops.checkpoint import KEPT

_MIB = 2**20
_WHERE = {
    "memory": "real images in host memory",
    "device": "real images, over all devices",
    "stream": "real images, on disk",
    "constant": "random images, not held",
}


def _state_shapes(algorithm: Algorithm, dataset: Dataset) -> TrainState:
    start = DistilledSet(
        jax.ShapeDtypeStruct((algorithm.rows, *dataset.image_shape), jnp.float32),
        jax.ShapeDtypeStruct((algorithm.rows, dataset.num_classes), jnp.float32),
    )
    return train_state_shapes(algorithm, start)


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _whitening_bytes(dataset: Dataset) -> int:
    return 2 * 4 * whitened_size(dataset.image_shape) ** 2 if dataset.whitened else 0


def written_bytes(algorithm: Algorithm, dataset: Dataset) -> int:
    """A bound on the disk a run needs, without logs: checkpoints, whitening (twice), export."""
    state = _state_shapes(algorithm, dataset)
    export = 2 * _bytes(state.best.distilled)
    # One more checkpoint than is kept: the new one is written before the oldest is removed.
    return (KEPT + 1) * _bytes(state) + 2 * _whitening_bytes(dataset) + export


def state_bytes(algorithm: Algorithm, dataset: Dataset) -> int:
    """Memory of the state of a run, over all devices."""
    return _bytes(_state_shapes(algorithm, dataset))


def overview(algorithm: Algorithm, dataset: Dataset) -> str:
    """A text for people: the data, the parameters of the net, and the memory of each part."""
    state, problem = _state_shapes(algorithm, dataset), algorithm.problem
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(
        lambda x: problem.module.init(jax.random.key(0), x, train=False), image
    )
    rows = problem.size * (2 if problem.config.flip else 1)
    dim = feature_dim(problem.module, dataset.image_shape)
    real = int(np.prod(dataset.image_shape)) * (len(dataset.train) + len(dataset.test))
    floats = dataset.placement == "memory" and dataset.whitened
    table = {
        **{f"state: {name}": _bytes(part) for name, part in state.algorithm._asdict().items()},
        "best set so far": _bytes(state.best),
        f"features of {rows} rows, d = {dim}": 4 * rows * dim,
        "Gram matrix": 4 * min(rows, dim) ** 2,
        "whitening and its inverse": _whitening_bytes(dataset),
        _WHERE[dataset.placement]: real * (4 if floats else 1),
    }
    lines = [
        f"{dataset.spec.name} from {dataset.origin}: {len(dataset.train)} target,"
        f" {len(dataset.held_out)} held-out, {len(dataset.test)} test images of"
        f" {dataset.image_shape}, {dataset.num_classes} classes",
        *([f"{dataset.skipped} unreadable images skipped"] if dataset.skipped else []),
        *dataset.notes,
        f"{problem.size} distilled images",
        "",
        "the net of the pool:",
        parameter_overview.get_parameter_overview(variables["params"], include_stats=False),
        "",
        "memory, MiB (activations come on top):",
        *(f"  {name:34} {size / _MIB:10.1f}" for name, size in table.items()),
    ]
    return "\n".join(lines)
