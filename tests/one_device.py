"""Functions that run inside `shard_map` over the mesh, on a mesh of one device."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from frepo_scale.distill.pool import Minibatch
from frepo_scale.parallel.mesh import single_device_mesh


def on_one_device(function):
    """`function` of arrays as if it ran on each device of a mesh, of which there is one."""
    return jax.jit(
        jax.shard_map(
            function, mesh=single_device_mesh(), in_specs=P(), out_specs=P(), check_vma=False
        )
    )


def whole_minibatch(images, labels):
    """A minibatch without padding."""
    return Minibatch(images, labels, jnp.ones(len(images), bool), len(images))
