"""The outer step of a recipe on devices that are not here, from what is known without the data."""

from collections.abc import Sequence

import jax

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources import spec_for
from frepo_scale.distill.step import OuterStep
from frepo_scale.jobs.parts import RunConfig
from frepo_scale.models.registry import build_net
from frepo_scale.parallel.mesh import build_mesh, check_sizes
from frepo_scale.plan.compile import compile_outer_step


def compile_recipe(config: RunConfig, devices: Sequence[jax.Device]) -> jax.stages.Compiled:
    """The compiled outer step of a recipe on these devices.

    Raises:
      InputError: the devices do not suit the recipe, or its data set has no fixed shape.
    """
    spec = spec_for(config.data.name)
    side = config.data.resolution or spec.resolution
    if spec.num_classes is None or side is None or spec.channels is None:
        raise InputError(
            f"DATASET = {spec.name!r}", "a data set whose classes and shape are known beforehand"
        )
    shape = (side, side, spec.channels)
    mesh = build_mesh(config.mesh, devices)
    check_sizes(mesh, config.pool.members, config.data.batch)
    size = spec.num_classes * config.distill.ipc
    module = build_net(config.net, spec.num_classes, shape)
    parts = OuterStep(
        module, config.distill, config.pool, config.ridge, mesh, size, config.data.batch
    )
    return compile_outer_step(parts, shape, spec.num_classes)
