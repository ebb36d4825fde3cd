"""From the net a recipe names to a flax module, checked before any compute is spent."""

import importlib
import inspect
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from frepo_scale.core.errors import InputError, nearest
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.models.convnet import NORMS, ConvNet, smallest_map
from frepo_scale.models.norm import BatchNorm

NETS: dict[str, type[nn.Module]] = {"convnet": ConvNet}


@dataclass(frozen=True)
class NetConfig:
    """Which net.

    Attributes:
      name: a key of `NETS`, or the dotted path of a flax module class of the user's own. Such a
        class is built with those of `num_classes, width, depth, norm` it has fields for; its
        `__call__(images, train)` returns (logits (B, K), features (B, d)), and BatchNorm-like
        statistics live in the collection `batch_stats`.
    """

    name: str = setting(
        "convnet", "NET", "convnet, or the dotted path of a flax module of your own"
    )
    width: int = setting(
        128, "WIDTH", "channels of the first layer, doubling per layer", low=1, high=2**20
    )
    depth: int = setting(3, "DEPTH", "convolution blocks", low=1)
    norm: str = setting("batch", "NORM", "batch | layer | group | instance | none", choices=NORMS)

    def __post_init__(self) -> None:
        """Raises InputError for values from which no net can be built."""
        check_settings(self)
        if "." not in self.name and self.name not in NETS:
            raise InputError(
                f"NET = {self.name!r}",
                "the name of a net or the dotted path of a flax module",
                nearest(str(self.name), NETS),
            )

    def for_evaluation(self) -> "NetConfig":
        """The net that fresh evaluation nets use: without norm where the pool has BatchNorm."""
        return replace(self, norm="none") if self.norm == "batch" else self


def build_net(
    config: NetConfig, num_classes: int, image_shape: tuple[int, ...], spread: bool = False
) -> nn.Module:
    """The module, after a dry run of its shapes.

    Args:
      config: which net.
      num_classes: K.
      image_shape: (H, W, C).
      spread: whether a batch will be spread over several devices.

    Raises:
      InputError: the class cannot be imported, a feature map would vanish, the module does not
        return (logits (B, K), features (B, d)), or keeps statistics of a spread batch that are not
        of the whole batch.
    """
    if config.name == "convnet":
        side = smallest_map(image_shape, config.depth)
        if side == 0:
            deepest = smallest_map(image_shape, 0).bit_length() - 1  # each block halves the map
            raise InputError(
                f"DEPTH = {config.depth}: the feature map of a {image_shape[0]} px image"
                " shrinks to size 0",
                f"a depth of at most {deepest}",
                f"use --gin.DEPTH={deepest}",
            )
    cls = NETS[config.name] if config.name in NETS else _import_class(config.name)
    offered: dict[str, Any] = {
        "num_classes": num_classes,
        "width": config.width,
        "depth": config.depth,
        "norm": config.norm,
    }
    accepted = inspect.signature(cls).parameters
    try:
        module = cls(**{k: v for k, v in offered.items() if k in accepted})
    except TypeError as error:
        raise InputError(
            f"NET = {config.name!r}: {error}",
            f"no fields without a default but {', '.join(offered)}",
        ) from error
    if config.name not in NETS:
        _check_outputs(config.name, module, num_classes, image_shape)
        if spread:
            _check_statistics(config.name, module, image_shape)
    return module


def feature_dim(module: nn.Module, image_shape: tuple[int, ...]) -> int:
    """The feature dimension d of a net at this image shape, without running it."""
    return int(_output_shapes(module, image_shape)[1].shape[-1])


def _output_shapes(module: nn.Module, image_shape: tuple[int, ...]) -> Any:
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    return jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=False)[0], images
    )


def _check_statistics(name: str, module: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Refuses running statistics that another layer than ours keeps: each device's own."""
    ours: set[tuple[str, ...]] = set()

    def note(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm):
            ours.add(context.module.path)
        return method(*args, **kwargs)

    def variables(x: jax.Array) -> Any:
        with nn.intercept_methods(note):
            return module.init(jax.random.key(0), x, train=False)

    found = jax.eval_shape(variables, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))
    for path, _ in jax.tree_util.tree_flatten_with_path(found.get("batch_stats", {}))[0]:
        layer = tuple(key.key for key in path[:-1])
        if layer not in ours:
            raise InputError(
                f"NET = {name!r}: {'/'.join(layer) or 'it'} keeps batch statistics of each"
                " device's images alone",
                "statistics of the whole batch, on every mesh",
                "take frepo_scale.models.norm.BatchNorm, or one device of the data axis",
            )


def _import_class(path: str) -> type[nn.Module]:
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # a user's file can fail in any way while it is imported
        raise InputError(
            f"NET = {path!r}: {error}",
            "an importable module.Class",
            "put the module's folder on PYTHONPATH",
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"NET = {path!r} is {found!r}", "a subclass of flax.linen.Module")
    return found


def _check_outputs(
    name: str, module: nn.Module, num_classes: int, image_shape: tuple[int, ...]
) -> None:
    expected = "a module whose __call__(images, train) returns (logits (B, K), features (B, d))"

    weights: list[jax.Array] = []

    def evaluated_and_trained(x: jax.Array) -> Any:
        outputs, variables = module.init_with_output(jax.random.key(0), x, train=False)
        # As the pool does it: no other collections, no keys for dropout.
        kept = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
        module.apply(kept, x, train=True, mutable=["batch_stats"])
        weights.extend(jax.tree.leaves(kept["params"]))
        return outputs

    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        logits, features = (x.shape for x in jax.eval_shape(evaluated_and_trained, images))
    # A user's module can fail in any way while it is traced: all are wrong input here.
    except Exception as error:
        raise InputError(f"NET = {name!r} failed on {image_shape} images: {error}", expected) from (
            error
        )
    if logits != (2, num_classes) or len(features) != 2 or features[0] != 2:
        raise InputError(
            f"NET = {name!r} returned shapes {logits} and {features} for B = 2, K = {num_classes}",
            expected,
        )
    if not weights:
        raise InputError(f"NET = {name!r} has no parameters", "a net that can be trained")
