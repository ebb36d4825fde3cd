"""A recipe as plans see it, without reading its data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, cast

from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import declared_settings
from frepo_scale.data.sources import spec_for
from frepo_scale.distill.registry import build_algorithm
from frepo_scale.jobs.plan_options import GivenSizes
from frepo_scale.jobs.run import problem_of
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.plan.search import EVALUATION_BATCH
from frepo_scale.plan.subject import Subject

# Images of the published data sets, target, held-out and test images together.
_IMAGES = {
    "digits": 1_797,
    "mnist": 70_000,
    "fashion_mnist": 70_000,
    "cifar10": 60_000,
    "cifar100": 60_000,
    "tiny_imagenet": 110_000,
    "imagenette": 13_394,
    "imagewoof": 12_954,
    "imagenet1k": 1_331_167,
}
_PREPARED = ("imagenet1k",)  # data sets that are always read from a prepared set


def sizes_of_data(config: RunConfig, given: GivenSizes) -> tuple[tuple[int, int, int], int]:
    """Image shape (H, W, C) and number of classes.

    Raises:
      InputError: they are not known beforehand, or contradict the data set.
    """
    spec = spec_for(config.data.name)
    known = {
        "classes": spec.num_classes,
        "resolution": config.data.resolution or spec.resolution,
        "channels": spec.channels,
    }
    for name, value in given._asdict().items():
        if value is not None and known[name] not in (None, value):
            raise InputError(
                f"--{name} {value} with DATASET = {spec.name!r}",
                f"{known[name]}, as this data set has it",
                f"leave --{name} out",
            )
        known[name] = known[name] or value
    missing = [name for name, value in known.items() if value is None]
    if missing:
        example = {"classes": 50, "resolution": 96, "channels": 3}
        raise InputError(
            f"DATASET = {spec.name!r}: its {' and '.join(missing)} are not known before it is read",
            "a data set whose classes and shape are known, or their values",
            "give them, as in " + " ".join(f"--{name} {example[name]}" for name in missing),
        )
    classes, side, channels = (cast(int, value) for value in known.values())
    return (side, side, channels), classes


def check_batch(config: RunConfig) -> None:
    """Raises InputError for a target batch that is larger than a published data set.

    Its training images are fewer than all its images; `distill` counts them.
    """
    name, batch = spec_for(config.data.name).name, config.data.batch
    images = _IMAGES.get(name, batch)
    if batch > images:
        raise InputError(
            f"BATCH = {batch}: {name} has {images} images in all",
            "at most the number of its training images",
            "lower --gin.BATCH, and use fewer devices if it does not divide over them",
        )


def subject_of(
    recipe: str, config: RunConfig, shape: tuple[int, int, int], classes: int
) -> Subject:
    """The subject of a recipe whose data have this shape and this many classes."""
    spec = spec_for(config.data.name)
    asked = config.data.placement
    return Subject(
        recipe=recipe,
        build=lambda mesh: build_algorithm(
            config.algorithm, problem_of(config, mesh, classes, shape)
        ),
        image_shape=shape,
        num_classes=classes,
        mesh=(config.mesh.pool, config.mesh.data),
        steps=config.distill.steps,
        images=_IMAGES.get(spec.name),
        whitened=spec.zca and shape[-1] == 3,
        prepared=spec.name in _PREPARED or asked == "stream",
        placement=asked,
        evaluation_batch=config.evaluation.batch,
        workers=config.data.workers,
    )


def varied(
    recipe: str, config: RunConfig, shape: tuple[int, int, int], classes: int
) -> Callable[[Mapping[str, Any]], Subject]:
    """A function from changed settings, by macro or binding, to the subject with them.

    Subjects share the shapes and sizes of their states where the settings do not change the state
    but by the pool.
    """
    plain = subject_of(recipe, config, shape, classes)
    same_state = {"CHUNK", "MESH_POOL", "MESH_DATA", "FEATURE_DTYPE", "NET_DTYPE"}
    same_state |= {"MEMBERS", "POOL_SIZE"}  # `state_of` tells them apart
    same_state |= {"STEPS", EVALUATION_BATCH}

    def vary(settings: Mapping[str, Any]) -> Subject:
        changed = subject_of(recipe, with_settings(config, settings), shape, classes)
        if set(settings) <= same_state:
            return replace(changed, states=plain.states, sizes=plain.sizes)
        return changed

    return vary


def macros_of(names: Iterable[str]) -> tuple[str, ...]:
    """Names of settings as macros, where they are bindings such as "Mesh.pool"."""
    known = {
        declared.binding: declared.setting.macro
        for part in fields(RunConfig)
        if isinstance(part.type, type)
        for declared in declared_settings(part.type)
    }
    return tuple(known.get(name) or name for name in names)


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A configuration with some settings changed.

    Args:
      config: the settings.
      settings: values by macro, such as "CHUNK"; by binding where a setting has none.

    Raises:
      InputError: values that do not fit together.
    """
    left = dict(settings)
    changed: dict[str, Any] = {}
    for part in fields(config):
        cls = cast(type, part.type)
        values = {
            declared.binding.partition(".")[2]: left.pop(name)
            for declared in declared_settings(cls)
            if (name := declared.setting.macro or declared.binding) in left
        }
        if values:
            changed[part.name] = replace(getattr(config, part.name), **values)
    if left:
        raise KeyError(next(iter(left)))
    return replace(config, **changed)
