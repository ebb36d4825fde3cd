"""The layers of a net with every constant, recorded while its shapes are traced.

The layers of `models` call `noted` on their result. Outside of `describe` it does nothing. Inside,
each call adds one entry, and the inputs of an entry are found by the identity of the arrays. A net
that computes with anything else in between has no description; `describe` then fails.

Legend: B images, H W height and width of a map, C channels, K classes.
"""

import math
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# What each kind of layer computes. The constants in backquotes are those of the entries.
OPERATIONS = {
    "convolution": "cross-correlation with kernels (`kernel`, `kernel`, `inputs`, `channels`)"
    " and stride `stride` of the map with `padding` rows and columns of zeros on each side; with"
    " `bias` plus one number for each channel",
    "linear": "(B, `inputs`) times a matrix (`inputs`, `outputs`), plus one number for each output",
    "relu": "max(x, 0)",
    "softplus": "log(1 + exp(`beta` x)) / `beta`",
    "average pool": "means over windows of `side` x `side` pixels, one every `stride` pixels; rows"
    " and columns that do not fill a window are left out",
    "max pool": "maxima over windows of `side` x `side` pixels, one every `stride` pixels, of the"
    " map with `padding` rows and columns of -infinity on each side; rows and columns that do not"
    " fill a window are left out",
    "adaptive average pool": "means over `side` x `side` windows; window i of n pixels goes from"
    " floor(i n / `side`) to ceil((i + 1) n / `side`), exclusive",
    "global average pool": "the mean over (H, W) of each channel",
    "flatten": "(B, H, W, C) to (B, H W C), channels last",
    "add": "the sum of both inputs",
    "batch norm": "(x - mean) / sqrt(variance + `epsilon`) * scale + bias; scale and bias are one"
    " number for each of `channels`. In training mean and biased variance over the batch and (H, W)"
    " of each channel; for tests running values r <- `running_weight` r + (1 - `running_weight`)"
    " batch, from mean 0 and variance 1",
    "layer norm": "as a batch norm, with mean and biased variance over all values of each image",
    "group norm": "as a batch norm, with mean and biased variance over (H, W) and the channels of"
    " each of `groups` groups of neighbouring channels, of each image",
    "instance norm": "as a batch norm, with mean and biased variance over (H, W) of each channel of"
    " each image",
}
INPUT = "images"  # the name of the input of a net


class _Record:
    """The entries of one trace."""

    def __init__(self, images: jax.Array) -> None:
        self.layers: list[dict[str, Any]] = []
        self._names = {id(images): INPUT}
        self._arrays = [images]  # kept, so that no other array gets the identity of one

    def add(self, y: jax.Array, inputs: tuple[jax.Array, ...], entry: dict[str, Any]) -> None:
        """Adds the layer that gives `y`."""
        previous = self.layers[-1]["name"] if self.layers else INPUT
        number = sum(layer["op"] == entry["op"] for layer in self.layers)
        entry = {"name": entry["name"] or f"{entry['op']} {number}"} | {
            name: value for name, value in entry.items() if name != "name"
        }
        names = [self.name_of(x) for x in inputs]
        if names != [previous]:
            entry["input_layers"] = names
        self.layers.append(entry | {"output": list(y.shape[1:])})
        self._names[id(y)] = entry["name"]
        self._arrays.append(y)

    def name_of(self, x: jax.Array) -> str:
        """The layer that gave `x`."""
        if id(x) not in self._names:
            raise ValueError("a net computes something between its layers that is not noted")
        return self._names[id(x)]


_record: ContextVar[_Record | None] = ContextVar("record", default=None)


def noted(
    y: jax.Array, *inputs: jax.Array, op: str, layer: nn.Module | None = None, **constants: Any
) -> jax.Array:
    """Returns `y`, the result of a layer; within `describe` it adds the layer to the description.

    Args:
      y: (B, H, W, C) or (B, F).
      inputs: from which the layer computed it.
      op: one of `OPERATIONS`.
      layer: the flax module that holds its parameters.
      constants: of the layer, JSON values.
    """
    record = _record.get()
    if record is not None:
        name = "" if layer is None else "/".join(layer.path)
        record.add(y, inputs, {"name": name, "op": op, **constants})
    return y


def describe(module: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    """The layers of a net of `models` as JSON values; nothing is computed.

    Args:
      module: the net.
      image_shape: (H, W, C).

    Returns:
      "layers": in order, each with "name" (of its parameters where it has any), "op", its
      constants, "output" (its shape without B), and "input_layers" where these are others than the
      layer before.
      "feature_layer": the name of the layer whose output is the features. The last layer gives the
      logits. "operations": what each "op" computes.

    Raises:
      ValueError: the net has a layer that is not noted.
    """
    found: list[tuple[_Record, str]] = []

    def outputs(x: jax.Array) -> Any:
        record = _Record(x)
        token = _record.set(record)
        try:
            (logits, features), _ = module.init_with_output(jax.random.key(0), x, train=False)
        finally:
            _record.reset(token)
        if record.name_of(logits) != record.layers[-1]["name"]:
            raise ValueError("the last layer of a net must give the logits")
        found.append((record, record.name_of(features)))
        return logits

    jax.eval_shape(outputs, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    record, features = found[-1]
    return {
        "layers": record.layers,
        "feature_layer": features,
        "operations": {
            op: text
            for op, text in OPERATIONS.items()
            if any(layer["op"] == op for layer in record.layers)
        },
    }


def parameter_shapes(module: nn.Module, image_shape: tuple[int, ...]) -> dict[str, list[int]]:
    """The shape of each trained array of any net, by its path; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    found = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    leaves = jax.tree_util.tree_flatten_with_path(found["params"])[0]
    return {"/".join(key.key for key in path): list(leaf.shape) for path, leaf in leaves}


def count(shapes: dict[str, list[int]]) -> int:
    """The number of parameters in arrays of such shapes."""
    return sum(math.prod(shape) for shape in shapes.values())
