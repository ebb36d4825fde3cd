"""Checks a recipe for devices that this machine does not have, before they are asked for."""

import jax

from frepo_scale.data.sources import spec_for
from frepo_scale.distill.registry import algorithm_class, build_algorithm
from frepo_scale.evaluate.registry import load_evaluations
from frepo_scale.jobs.run import problem_of
from frepo_scale.jobs.settings import Recipe
from frepo_scale.models.registry import build_net
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import build_mesh, check_sizes


def check_elsewhere(recipe: Recipe, count: int) -> None:
    """Builds the nets and the algorithm of a recipe for `count` devices; reads no data.

    The devices are virtual ones of this machine's CPU, so it must be called before any device is
    used. The shape of the images must be known from the recipe; otherwise only the sizes of the
    mesh, the algorithm and the evaluations are checked.

    Args:
      recipe: what would run.
      count: the number of devices of all machines.

    Raises:
      InputError: the recipe or a setting is wrong, or does not suit that many devices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    config = recipe.config
    mesh = build_mesh(config.mesh)
    check_sizes(mesh, config.pool.members, config.data.batch)
    algorithm_class(config.algorithm)
    load_evaluations(config.evaluation.evaluations)
    spec = spec_for(config.data.name)
    side = config.data.resolution or spec.resolution
    if spec.num_classes is not None and side is not None and spec.channels is not None:
        shape = (side, side, spec.channels)
        with matmul_precision(config.distill.matmul_precision):
            build_algorithm(config.algorithm, problem_of(config, mesh, spec.num_classes, shape))
        build_net(config.net.for_evaluation(), spec.num_classes, shape)
    print(f"{recipe.name} suits {count} devices; its data were not read and nothing was trained.")
