"""The files of `POOL_WEIGHTS` in a run: their fingerprints are part of its identity."""

from dataclasses import replace

from frepo_scale.core.errors import InputError
from frepo_scale.distill.algorithm import Problem
from frepo_scale.evaluate.encoders import Encoders
from frepo_scale.jobs.settings import Recipe, RunConfig
from frepo_scale.models.weights import sha256_of
from frepo_scale.parallel.runtime import agree, all_true


def with_fingerprints(recipe: Recipe) -> Recipe:
    """The recipe with the sha256 of each file of `POOL_WEIGHTS` among its scientific settings.

    A run is then not resumed with files that hold something else; the paths may change.

    Raises:
      InputError: a file cannot be read, or the recipe gives another sha256 for it.
    """
    pool = recipe.config.pool
    found = tuple(sha256_of(path) for path in pool.weights)
    if pool.weights_sha256 and pool.weights_sha256 != found:
        raise InputError(
            f"POOL_WEIGHTS = {pool.weights!r} have the sha256 {found!r}",
            f"{pool.weights_sha256!r}, as Pool.weights_sha256 says",
            "give the files that it means, or leave Pool.weights_sha256 out",
        )
    known = replace(recipe.config, pool=replace(pool, weights_sha256=found))
    return replace(recipe, config=known)


def encoders_of(
    config: RunConfig, num_classes: int, image_shape: tuple[int, ...]
) -> Encoders | None:
    """The nets of `POOL_WEIGHTS`, not read yet; None where there are none."""
    if not config.pool.frozen:
        return None
    return Encoders(config.pool.weights, config.net, num_classes, image_shape)


def with_nets(
    problem: Problem, config: RunConfig, num_classes: int, image_shape: tuple[int, ...]
) -> Problem:
    """The problem with the nets of `POOL_WEIGHTS`.

    Raises:
      InputError: a file cannot be read or does not suit the net.
    """
    encoders = encoders_of(config, num_classes, image_shape)
    if encoders is None:
        return problem
    return problem._replace(nets=tuple(encoder.variables for encoder in encoders.load()))


def check_same_nets(config: RunConfig) -> None:
    """Raises InputError unless every process found the files that process 0 found."""
    for path, sha256 in zip(config.pool.weights, config.pool.weights_sha256, strict=True):
        number = int(sha256[:16], 16)
        if not all_true(number == agree(number)):
            raise InputError(
                f"POOL_WEIGHTS: {path} is not the same for all processes (here {sha256[:12]}...)",
                "one file for all",
                "give them all a copy of one file",
            )
