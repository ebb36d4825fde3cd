"""The net seam: from the net a recipe names to a flax module, checked before compute is spent.

A net is a flax module. Its `__call__(images, train)` takes images (B, H, W, C) and returns logits
(B, K) and features (B, d); the ridge regression works on the features. It may keep running
statistics in the collection `batch_stats`, through `models.norm.BatchNorm`, which is right for a
batch spread over several devices. docs/how-to/net.md shows a complete one.
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from frepo_scale.core.dotted import import_class
from frepo_scale.core.errors import InputError, nearest
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.models.alexnet import AlexNet
from frepo_scale.models.convnet import ACTIVATIONS, ConvNet
from frepo_scale.models.mlp import MLP
from frepo_scale.models.norm import NORMS, BatchNorm
from frepo_scale.models.resnet import ResNet10, ResNet18
from frepo_scale.models.vgg import VGG11

NETS: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet10": ResNet10,
    "resnet18": ResNet18,
    "mlp": MLP,
}
# Fields that have a setting of their own.
_SETTINGS = {
    "num_classes": "DATASET",
    "width": "WIDTH",
    "depth": "DEPTH",
    "norm": "NORM",
    "activation": "POOL_ACTIVATION",
    "softplus_beta": "SOFTPLUS_BETA",
}


@dataclass(frozen=True)
class NetConfig:
    """The choice of a net.

    Attributes:
      name: a key of `NETS`, or the dotted path of a user's own flax module class. The class is
        constructed with those of `num_classes, width, depth, norm` that it has fields for.
      width: channels of the first layer of "convnet", of each hidden layer of "mlp". The other
        nets have their standard widths.
      depth: blocks of "convnet", hidden layers of "mlp".
      norm: one of `models.norm.NORMS`.
      args: values of further fields of the class, by name: numbers, texts, booleans, None, lists
        and dicts of them. Lists arrive as tuples and dicts as `FrozenDict`, so that the module can
        be hashed.
      evaluation_norm: the norm of evaluation nets; "": as in the paper.
    """

    name: str = setting(
        "convnet",
        "NET",
        " | ".join(NETS) + ", or the dotted path of a flax module of your own",
    )
    width: int = setting(
        128, "WIDTH", "channels of the first layer, doubling per layer", low=1, high=2**20
    )
    depth: int = setting(3, "DEPTH", "convolution blocks", low=1)
    norm: str = setting(
        "batch", "NORM", "norm of the nets: batch | layer | group | instance | none", choices=NORMS
    )
    args: dict[str, Any] = setting(
        {}, "NET_ARGS", "further fields of the net, such as {'width_multiplier': 0.5}"
    )
    evaluation_norm: str = setting(
        "",
        "EVAL_NORM",
        "norm of evaluation nets; '': none where NORM is batch, else NORM",
        choices=("", *NORMS),
    )
    activation: str = setting(
        "relu",
        "POOL_ACTIVATION",
        "activation of the nets of the pool: relu | softplus; evaluation nets have relu",
        choices=ACTIVATIONS,
    )
    softplus_beta: float = setting(
        60.0, "SOFTPLUS_BETA", "beta of softplus, log(1 + exp(beta x)) / beta", above=0
    )

    def __post_init__(self) -> None:
        """Raises InputError for values from which no net can be built."""
        check_settings(self)
        if "." not in self.name and self.name not in NETS:
            raise InputError(
                f"NET = {self.name!r}",
                "the name of a net or the dotted path of a flax module",
                nearest(str(self.name), NETS),
            )
        object.__setattr__(self, "args", _checked_args(self.args))

    def for_evaluation(self) -> "NetConfig":
        """The net of fresh evaluation nets, with ReLU.

        Where the pool nets have BatchNorm they have no norm (docs/algorithm.md section 3), unless
        `evaluation_norm` names one.
        """
        norm = "none" if self.norm == "batch" else self.norm
        return replace(self, norm=self.evaluation_norm or norm, activation="relu")


def _checked_args(args: Any) -> dict[str, Any]:
    """`NET_ARGS` as JSON reads them back: they are part of the identity of a run."""
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise InputError(
            f"NET_ARGS = {args!r}",
            "a dict of fields of the net",
            """for example --gin.NET_ARGS="{'heads': 4}" """,
        )
    for name in args:
        if name in _SETTINGS:
            setting = _SETTINGS[name]
            raise InputError(
                f"NET_ARGS = {args!r}: {name!r} has a setting of its own",
                f"fields other than {', '.join(_SETTINGS)}",
                f"set {setting} instead",
            )
    try:
        stored: dict[str, Any] = json.loads(json.dumps(dict(args), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"NET_ARGS = {args!r}: {error}",
            "finite numbers, texts, booleans, None, and lists and dicts of them",
        ) from error
    return stored


def build_net(
    config: NetConfig, num_classes: int, image_shape: tuple[int, ...], spread: bool = False
) -> nn.Module:
    """The module, after a trace of its shapes.

    Args:
      config: the choice of the net.
      num_classes: K.
      image_shape: (H, W, C).
      spread: whether batches will be spread over several devices.

    Raises:
      InputError: the class cannot be imported, has no such field, the net does not suit such
        images, the module does not return (logits (B, K), features (B, d)), or it keeps statistics
        of a spread batch that are not of the whole batch.
    """
    cls = NETS[config.name] if config.name in NETS else import_class("NET", config.name, nn.Module)
    module = _construct(cls, config, num_classes)
    if config.name in NETS:
        cast(Any, module).check(image_shape)
    else:
        _check_outputs(config.name, module, num_classes, image_shape)
        if spread:
            _check_statistics(config.name, module, image_shape)
    return module


def _construct(cls: type[nn.Module], config: NetConfig, num_classes: int) -> nn.Module:
    given: dict[str, Any] = {
        "num_classes": num_classes,
        "width": config.width,
        "depth": config.depth,
        "norm": config.norm,
        "activation": config.activation,
        "softplus_beta": config.softplus_beta,
    }
    # Flax adds `parent` and `name` to the fields of every module.
    known = [name for name in inspect.signature(cls).parameters if name not in ("parent", "name")]
    own = [name for name in known if name not in given]
    if "activation" not in known and config.activation != "relu":
        raise InputError(
            f"POOL_ACTIVATION = {config.activation!r}: NET = {config.name!r} has no such field",
            "'relu', or a net with a field 'activation'",
            "use --gin.POOL_ACTIVATION=relu",
        )
    for name, value in config.args.items():
        if name not in own:
            raise InputError(
                f"NET_ARGS = {config.args!r}: NET = {config.name!r} has no field {name!r}",
                "fields of the net",
                nearest(name, own) if own else 'it has no further fields: use --gin.NET_ARGS="{}"',
            )
        given[name] = _hashable(value)
    try:
        return cls(**{name: value for name, value in given.items() if name in known})
    except Exception as error:  # a user's __post_init__ can fail in any way
        missing = [name for name in own if name not in config.args]
        raise InputError(
            f"NET = {config.name!r}: {error}",
            f"values for its fields; {', '.join(_SETTINGS)} have settings of their own",
            f"""give the others with --gin.NET_ARGS="{{'{missing[0]}': VALUE}}" """
            if missing
            else "",
        ) from error


def _hashable(value: Any) -> Any:
    """JSON lists as tuples and dicts as `FrozenDict`: flax hashes its modules."""
    if isinstance(value, list):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, dict):
        return FrozenDict({name: _hashable(item) for name, item in value.items()})
    return value


def feature_dim(module: nn.Module, image_shape: tuple[int, ...]) -> int:
    """The feature dimension d of a net at this image shape, without running it."""
    return int(_output_shapes(module, image_shape)[1].shape[-1])


def _output_shapes(module: nn.Module, image_shape: tuple[int, ...]) -> Any:
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    return jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=False)[0], images
    )


def _check_statistics(name: str, module: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Refuses running statistics of other layers: they would differ between the devices."""
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
                f"NET = {name!r}: {'/'.join(layer) or 'it'} computes batch statistics"
                " from each device's images alone",
                "statistics of the whole batch, on every mesh",
                "use frepo_scale.models.norm.BatchNorm, or one device on the data axis",
            )


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
    # A user's module can fail in any way while it is traced; each is wrong input here.
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
