"""What a configuration needs: parameters, memory, disk. Shapes only, nothing is computed."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import Dataset
from frepo_scale.data.whitening import whitened_size
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import DistillState, state_shapes
from frepo_scale.models.registry import feature_dim
from frepo_scale.ops.checkpoint import KEPT

_MIB = 2**20
_WHERE = {
    "memory": "real images in host memory",
    "device": "real images, over all devices",
    "stream": "real images, on disk",
    "constant": "random images, not held",
}


def _state_shapes(
    module: nn.Module, dataset: Dataset, distill: DistillConfig, pool: PoolConfig
) -> DistillState:
    size = dataset.num_classes * distill.ipc
    start = DistilledSet(
        jax.ShapeDtypeStruct((size, *dataset.image_shape), jnp.float32),
        jax.ShapeDtypeStruct((size, dataset.num_classes), jnp.float32),
    )
    return state_shapes(module, distill, pool, start)


def _bytes(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _whitening_bytes(dataset: Dataset) -> int:
    return 2 * 4 * whitened_size(dataset.image_shape) ** 2 if dataset.whitened else 0


def written_bytes(
    module: nn.Module, dataset: Dataset, distill: DistillConfig, pool: PoolConfig
) -> int:
    """A bound on the disk a run takes, save for logs: checkpoints, whitening (twice), export."""
    state = _state_shapes(module, dataset, distill, pool)
    export = 2 * _bytes(state.distilled)
    # One more checkpoint than is kept: the new one is written before the oldest goes.
    return (KEPT + 1) * _bytes(state) + 2 * _whitening_bytes(dataset) + export


def overview(module: nn.Module, dataset: Dataset, distill: DistillConfig, pool: PoolConfig) -> str:
    """A text for people: one member's parameters, then memory by what holds it."""
    state = _state_shapes(module, dataset, distill, pool)
    member = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.pool.params)
    rows = len(state.distilled.images) * (2 if distill.flip else 1)
    dim = feature_dim(module, dataset.image_shape)
    real = int(np.prod(dataset.image_shape)) * (len(dataset.train) + len(dataset.test))
    floats = dataset.placement == "memory" and dataset.whitened
    table = {
        "distilled set": _bytes(state.distilled),
        "its optimiser (LAMB)": _bytes(state.optimiser),
        "best set so far": _bytes(state.best),
        f"pool of {pool.size} with Adam": _bytes(state.pool),
        f"features of {rows} rows, d = {dim}": 4 * rows * dim,
        "Gram matrix": 4 * min(rows, dim) ** 2,
        "whitening and its inverse": _whitening_bytes(dataset),
        _WHERE[dataset.placement]: real * (4 if floats else 1),
    }
    lines = [
        f"{dataset.spec.name} from {dataset.origin}: {len(dataset.train)} target,"
        f" {len(dataset.held_out)} held-out, {len(dataset.test)} test images of"
        f" {dataset.image_shape}, {dataset.num_classes} classes",
        *([f"{dataset.skipped} unreadable images left out"] if dataset.skipped else []),
        f"{len(state.distilled.images)} synthetic images",
        "",
        "one member of the pool:",
        parameter_overview.get_parameter_overview(member, include_stats=False),
        "",
        "memory, MiB (activations come on top):",
        *(f"  {name:34} {size / _MIB:10.1f}" for name, size in table.items()),
    ]
    return "\n".join(lines)
