"""A net can be rebuilt from its description alone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from frepo_scale.models.description import OPERATIONS, describe, parameter_shapes
from frepo_scale.models.registry import NETS, NetConfig, build_net

# Each net, the forms for CIFAR and for ImageNet, images with one channel, and each norm.
FORMS = [
    ("convnet", "layer", 8, 1),
    ("mlp", "batch", 8, 3),
    ("alexnet", "none", 32, 3),
    ("alexnet", "group", 96, 3),
    ("vgg11", "instance", 28, 1),
    ("vgg11", "none", 96, 3),
    ("resnet10", "none", 96, 3),
    ("resnet18", "batch", 32, 3),
]


def sizes(layer, shape):
    """Output shape and parameters of a layer on an input of `shape`, by its constants alone."""
    op = layer["op"]
    if op == "convolution":
        kernel, around, stride = layer["kernel"], layer["padding"], layer["stride"]
        sides = [(side + 2 * around - kernel) // stride + 1 for side in shape[:2]]
        assert shape[2] == layer["inputs"]
        weights = kernel**2 * layer["inputs"] * layer["channels"]
        return [*sides, layer["channels"]], weights + layer["bias"] * layer["channels"]
    if op == "linear":
        assert shape == [layer["inputs"]]
        return [layer["outputs"]], (layer["inputs"] + 1) * layer["outputs"]
    if op in ("average pool", "max pool"):
        around = 2 * layer.get("padding", 0)
        sides = [(side + around - layer["side"]) // layer["stride"] + 1 for side in shape[:2]]
        return [*sides, shape[2]], 0
    if op == "adaptive average pool":
        return [layer["side"], layer["side"], shape[2]], 0
    if op in ("flatten", "global average pool"):
        return [math.prod(shape) if op == "flatten" else shape[2]], 0
    if op.endswith("norm"):
        return shape, 2 * layer["channels"]
    assert op in ("relu", "add")
    return shape, 0


@pytest.mark.parametrize(("name", "norm", "side", "channels"), FORMS)
def test_shapes_and_parameters_follow_from_the_constants(name, norm, side, channels):
    module = build_net(NetConfig(name, 16, 2, norm), 7, (side, side, channels))
    described = describe(module, (side, side, channels))
    shapes, parameters, last = {"images": [side, side, channels]}, {}, "images"
    for layer in described["layers"]:
        inputs = [shapes[one] for one in layer.get("input_layers", [last])]
        assert all(shape == inputs[0] for shape in inputs)
        last = layer["name"]
        shapes[last], parameters[last] = sizes(layer, inputs[0])
        assert shapes[last] == layer["output"]
    assert shapes[last] == [7]
    found = {one: 0 for one in parameters}
    for path, shape in parameter_shapes(module, (side, side, channels)).items():
        found[path.rpartition("/")[0]] += math.prod(shape)
    assert found == parameters
    assert described["operations"].keys() <= OPERATIONS.keys()


def computed(described, variables, x):
    """Logits and features, by the constants of a description and the parameters by their names."""
    known, last = {"images": x}, "images"
    for layer in described["layers"]:
        x = known[layer.get("input_layers", [last])[0]]
        own = [variables["params"], variables.get("batch_stats", {})]
        for part in layer["name"].split("/"):
            own = [tree.get(part, {}) for tree in own]
        match layer["op"].split():
            case ["convolution"]:
                around = [(layer["padding"],) * 2] * 2
                x = lax.conv_general_dilated(
                    x, own[0]["kernel"], (layer["stride"],) * 2, around,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
                ) + own[0].get("bias", 0)  # fmt: skip
            case ["linear"]:
                x = jnp.dot(x, own[0]["kernel"], precision="highest") + own[0]["bias"]
            case ["relu"]:
                x = jnp.maximum(x, 0)
            case ["average" | "max" as kind, "pool"]:
                around = layer.get("padding", 0)
                pad = ((0, 0), (around, around), (around, around), (0, 0))
                window = (1, layer["side"], layer["side"], 1)
                start, of = (0.0, lax.add) if kind == "average" else (-jnp.inf, lax.max)
                stride = (1, layer["stride"], layer["stride"], 1)
                x = lax.reduce_window(x, start, of, window, stride, pad)
                x = x / layer["side"] ** 2 if kind == "average" else x
            case ["adaptive", *_]:
                for axis in (1, 2):
                    n, side = x.shape[axis], layer["side"]
                    parts = [
                        lax.slice_in_dim(x, i * n // side, -(-(i + 1) * n // side), axis=axis)
                        for i in range(side)
                    ]
                    x = jnp.stack([part.mean(axis) for part in parts], axis)
            case ["global", *_]:
                x = x.mean((1, 2))
            case ["flatten"]:
                x = x.reshape(len(x), -1)
            case ["add"]:
                x = x + known[layer["input_layers"][1]]
            case [kind, "norm"]:
                x = normalised(x, kind, layer, *own)
        last = layer["name"]
        known[last] = x
    return x, known[described["feature_layer"]]


def normalised(x, kind, layer, params, stats):
    if kind == "batch":
        mean, var = stats["mean"], stats["var"]
    else:
        # (B, pixels, groups, channels of one): "layer" has one group, "instance" one per channel.
        groups = {"layer": 1, "instance": x.shape[-1]}.get(kind, layer.get("groups"))
        grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
        mean, var = (
            jnp.repeat(moment, x.shape[-1] // groups, -1).reshape(
                len(x), *(1,) * (x.ndim - 2), x.shape[-1]
            )
            for moment in (grouped.mean((1, 3)), grouped.var((1, 3)))
        )
    return (x - mean) / jnp.sqrt(var + layer["epsilon"]) * params["scale"] + params["bias"]


@pytest.mark.parametrize(
    ("name", "norm", "side", "args"),
    [
        ("convnet", "instance", 8, {}),
        ("mlp", "layer", 8, {}),
        ("alexnet", "group", 96, {"width_multiplier": 1 / 32}),
        ("vgg11", "none", 96, {"width_multiplier": 1 / 32}),
        ("resnet10", "batch", 96, {"width_multiplier": 1 / 32}),
    ],
)
def test_the_description_computes_what_the_net_computes(name, norm, side, args):
    """Also the only nets that are executed above 64 px: the forms for ImageNet."""
    shape = (side, side, 3)
    module = build_net(NetConfig(name, 4, 2, norm, args), 3, shape)
    described = describe(module, shape)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *shape)).astype(np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    # Not the initial values: scales, biases and running statistics must count.
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            if path[-1].key in ("scale", "var")
            else (rng.normal(size=leaf.shape) / np.sqrt(max(1, leaf.size / leaf.shape[-1]))).astype(
                np.float32
            )
        ),
        shapes,
    )

    @jax.jit
    def both(variables, images):
        return module.apply(variables, images), computed(described, variables, images)

    for ours, rebuilt in zip(*both(variables, images), strict=True):
        assert ours.shape == rebuilt.shape and np.isfinite(ours).all()
        scale = np.abs(np.asarray(ours)).max()
        assert scale > 1e-3
        np.testing.assert_allclose(rebuilt, ours, atol=1e-4 * scale)


def test_every_registered_net_is_described():
    assert {name for name, *_ in FORMS} == set(NETS)


def test_a_net_with_a_step_that_is_not_noted_is_refused():
    class Shifted(NETS["mlp"]):
        def __call__(self, x, train=False):
            return super().__call__(x + 1, train)

    with pytest.raises(ValueError, match="not noted"):
        describe(Shifted(num_classes=3, width=2, depth=1), (4, 4, 1))
