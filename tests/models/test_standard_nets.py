"""The standard nets: published numbers of parameters, shapes, gradients, bfloat16, limits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.models.apply import apply_net
from frepo_scale.models.layers import adaptive_average, max_pool
from frepo_scale.models.norm import NORMS
from frepo_scale.models.registry import NETS, NetConfig, build_net, feature_dim

STANDARD = ["alexnet", "vgg11", "resnet10", "resnet18"]


def built(name, norm, side=32, channels=3, classes=10, **given):
    fields = {field: given.pop(field) for field in ("width", "depth") if field in given}
    config = NetConfig(name=name, norm=norm, args=given, **fields)
    return build_net(config, classes, (side, side, channels))


def parameters(module, side, channels=3):
    """The number of parameters by collection, from shapes alone."""
    images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("name", "norm", "published"),
    [
        ("alexnet", "none", 61_100_840),  # torchvision.models.alexnet
        ("vgg11", "none", 132_863_336),  # torchvision.models.vgg11
        ("vgg11", "batch", 132_868_840),  # torchvision.models.vgg11_bn
        ("resnet18", "batch", 11_689_512),  # torchvision.models.resnet18
        ("resnet10", "batch", 5_418_792),  # its BasicBlock with layers [1, 1, 1, 1]
    ],
)
def test_parameters_at_224_pixels_and_1000_classes(name, norm, published):
    assert parameters(built(name, norm, 224, classes=1000), 224) == published


@pytest.mark.parametrize(
    ("name", "norm", "side", "channels", "published"),
    [
        # networks.py of Dataset Condensation: convolutions of 128, 192, 256, 192, 192 channels
        # and a linear layer on 192 maps of 4x4.
        ("alexnet", "none", 32, 3, 1_872_202),
        ("alexnet", "none", 28, 1, 1_872_202 - 2 * 25 * 128),
        ("alexnet", "none", 64, 3, 1_872_202 + 3 * 10 * 192 * 4 * 4),
        # The usual VGG11 for CIFAR: one linear layer of 512 x 10; with BatchNorm 9,231,114.
        ("vgg11", "none", 32, 3, 9_225_610),
        ("vgg11", "batch", 32, 3, 9_231_114),
        ("vgg11", "none", 64, 3, 9_225_610 + 3 * 10 * 512),
        # The usual ResNets for CIFAR; the mean over the last map makes 64 px the same.
        ("resnet18", "batch", 32, 3, 11_173_962),
        ("resnet18", "batch", 64, 3, 11_173_962),
        ("resnet10", "batch", 32, 3, 4_903_242),
        ("resnet10", "batch", 64, 3, 4_903_242),
    ],
)
def test_parameters_of_the_forms_for_cifar(name, norm, side, channels, published):
    assert parameters(built(name, norm, side, channels), side, channels) == published


@pytest.mark.parametrize(
    ("norm", "side", "channels", "depth", "classes", "expected"),
    [
        # Zhou et al. 2022: 128, 256, 512, ... channels; a linear layer on maps of side 4, at 224 px
        # of side 7. By hand: 3,584 + 295,168 + 1,180,160 (+ 4,719,616 + 18,876,416) and the head.
        ("none", 32, 3, 3, 10, 1_478_912 + 10 * (512 * 16 + 1)),
        ("batch", 32, 3, 3, 10, 1_478_912 + 10 * (512 * 16 + 1) + 2 * (128 + 256)),
        ("none", 28, 1, 3, 10, 1_478_912 - 2 * 9 * 128 + 10 * (512 * 16 + 1)),
        ("none", 64, 3, 4, 10, 6_198_528 + 10 * (1024 * 16 + 1)),
        ("none", 224, 3, 5, 1000, 25_074_944 + 1000 * (2048 * 49 + 1)),
    ],
)
def test_parameters_of_the_convnet(norm, side, channels, depth, classes, expected):
    module = built("convnet", norm, side, channels, classes, depth=depth)
    assert parameters(module, side, channels) == expected


def test_parameters_of_the_mlp_and_of_resnet_34():
    # networks.py of Dataset Condensation: 3072-128-128-10.
    assert parameters(built("mlp", "none", width=128, depth=2), 32) == 411_146
    for side, pixels in ((64, 12_288), (224, 150_528)):
        expected = (pixels + 1) * 128 + 129 * 128 + 129 * 10
        assert parameters(built("mlp", "none", side, width=128, depth=2), side) == expected
    thirty_four = built("resnet18", "batch", 224, classes=1000, blocks=[3, 4, 6, 3])
    assert parameters(thirty_four, 224) == 21_797_672  # torchvision.models.resnet34


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("alexnet", 32, 192 * 4 * 4),
        ("alexnet", 64, 192 * 8 * 8),
        ("alexnet", 128, 4096),
        ("vgg11", 32, 512),
        ("vgg11", 64, 512 * 2 * 2),
        ("vgg11", 128, 4096),
        ("resnet18", 32, 512),
        ("resnet18", 128, 512),
        ("mlp", 32, 128),
    ],
)
def test_feature_dimensions(name, side, expected):
    assert feature_dim(built(name, "none", side), (side, side, 3)) == expected


def test_every_norm_but_batch_has_the_parameters_of_batch():
    """Scale and bias per channel; without norm the ResNet's convolutions have a bias instead."""
    for name in STANDARD:
        counts = {norm: parameters(built(name, norm), 32) for norm in NORMS}
        assert len({counts[norm] for norm in NORMS if norm != "none"}) == 1
        assert counts["none"] < counts["batch"]


def test_the_form_changes_above_64_pixels():
    def shapes(side):
        images = jnp.zeros((1, side, side, 3))
        module = built("resnet18", "batch", side)
        found = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
        return found["params"]["conv0"]["kernel"].shape

    assert shapes(64) == (3, 3, 3, 64)
    assert shapes(65) == (7, 7, 3, 64)


@pytest.mark.parametrize(
    ("name", "side", "sides"),
    [
        ("alexnet", 32, [32, 16, 8, 8, 8]),
        ("alexnet", 224, [55, 27, 13, 13, 13]),
        ("vgg11", 32, [32, 16, 8, 8, 4, 4, 2, 2]),
        ("vgg11", 224, [224, 112, 56, 56, 28, 28, 14, 14]),
        ("resnet10", 32, [32, 32, 16, 8, 4]),
        ("resnet10", 224, [112, 56, 28, 14, 7]),
    ],
)
def test_sides_of_the_maps(name, side, sides):
    """Of the convolutions, or of the first convolution and the blocks."""
    module = built(name, "none", side)

    def maps(x):
        return module.init_with_output(jax.random.key(0), x, capture_intermediates=True)[1]

    found = jax.eval_shape(maps, jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))
    layers = found["intermediates"]
    chosen = [layer for layer in layers if layer.startswith(("conv", "stage"))]
    assert [layers[layer]["__call__"][0].shape[1] for layer in sorted(chosen)] == sides


def test_the_width_multiplier_scales_every_hidden_width():
    module = built("resnet18", "none", width_multiplier=0.25)
    assert feature_dim(module, (32, 32, 3)) == 128
    assert feature_dim(built("alexnet", "none", 128, width_multiplier=0.5), (128, 128, 3)) == 2048
    assert feature_dim(built("vgg11", "none", width_multiplier=1e-6), (32, 32, 3)) == 1


TINY = {
    "convnet": {},
    "alexnet": {"width_multiplier": 1 / 32},
    "vgg11": {"width_multiplier": 1 / 16},
    "resnet10": {"width_multiplier": 1 / 16},
    "resnet18": {"width_multiplier": 1 / 16},
    "mlp": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_every_parameter_and_the_images(name):
    module = build_net(NetConfig(name, 4, 2, "layer", TINY[name]), 3, (32, 32, 1))
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 1))
    variables = module.init(jax.random.key(1), images)

    @jax.jit
    @jax.grad
    def gradient(given):
        logits, features = module.apply({"params": given[0]}, given[1], train=True)
        return jnp.sum(logits[:, 0]) + jnp.sum(jnp.sin(logits[:, 1:])) + jnp.sum(features**2)

    found = gradient((variables["params"], images))
    assert jax.tree.structure(found[0]) == jax.tree.structure(variables["params"])
    for path, leaf in jax.tree_util.tree_flatten_with_path(found)[0]:
        assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_bfloat16_computes_nearly_the_same_and_keeps_float32_parameters(name):
    module = build_net(NetConfig(name, 16, 2, "batch", TINY[name]), 3, (32, 32, 1))
    images = jax.random.normal(jax.random.key(0), (8, 32, 32, 1))
    variables = module.init(jax.random.key(1), images)
    params, stats = variables["params"], variables["batch_stats"]

    @jax.jit
    def both(params, stats):
        return [apply_net(module, params, stats, images, d, True) for d in ("bfloat16", "float32")]

    rounded, exact = both(params, stats)
    # Every layer of `deep` rounds weights, input and output by at most 2^-8.
    depths = {"alexnet": 6, "vgg11": 9, "resnet10": 10, "resnet18": 18, "mlp": 3, "convnet": 3}
    deep = depths[name]
    error = np.linalg.norm(rounded.features - exact.features) / np.linalg.norm(exact.features)
    assert 0 < error < 3 * deep * 2**-8
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    changed = jax.tree.map(lambda new, old: np.any(new != old), exact.stats, stats)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize(
    ("name", "norm", "shape", "args", "what"),
    [
        ("alexnet", "none", (7, 7, 3), {}, "7 px"),
        ("vgg11", "none", (28, 28, 3), {}, "28 px"),
        ("resnet18", "instance", (8, 8, 3), {}, "8 px"),
        ("resnet18", "group", (8, 8, 3), {"width_multiplier": 1 / 16}, "8 px"),
        ("mlp", "instance", (8, 8, 3), {}, "instance"),
        ("resnet18", "batch", (8, 8, 3), {"blocks": [2, 2, 2]}, "blocks"),
        ("resnet18", "batch", (8, 8, 3), {"blocks": 3}, "blocks"),
        ("resnet10", "batch", (8, 8, 3), {"width_multiplier": 0}, "width_multiplier"),
        ("vgg11", "batch", (32, 32, 3), {"width_multiplier": "half"}, "width_multiplier"),
    ],
)
def test_what_a_net_cannot_do_is_refused(name, norm, shape, args, what):
    with pytest.raises(InputError) as caught:
        build_net(NetConfig(name=name, norm=norm, args=args), 5, shape)
    assert what in caught.value.what


def test_a_group_of_one_unit_is_refused():
    """It would be 0 whatever the image is."""
    with pytest.raises(InputError) as caught:
        build_net(NetConfig("mlp", norm="group", width=32), 5, (8, 8, 3))
    assert "WIDTH = 32" in caught.value.what and "--gin.WIDTH=64" in caught.value.fix
    assert feature_dim(build_net(NetConfig("mlp", norm="group", width=64), 5, (8, 8, 3)), (8, 8, 3))


def test_the_smallest_images_leave_features():
    for name, norm, shape in [
        ("alexnet", "instance", (8, 8, 3)),
        ("alexnet", "none", (4, 4, 1)),
        ("vgg11", "instance", (32, 32, 3)),
        ("vgg11", "none", (28, 28, 1)),
        ("resnet18", "instance", (9, 9, 3)),
        ("resnet18", "none", (1, 1, 3)),
        ("mlp", "none", (1, 1, 1)),
    ]:
        module = build_net(NetConfig(name=name, norm=norm), 5, shape)
        assert feature_dim(module, shape) > 0


def test_the_registry_names_them_all():
    assert set(NETS) == set(TINY)
    assert all(name in NetConfig.__dataclass_fields__["name"].metadata["setting"].help
               for name in NETS)  # fmt: skip


def test_adaptive_average_pools_as_pytorch():
    """Windows overlap where the sides do not divide, and repeat pixels of smaller maps."""
    x = jnp.arange(5.0)[None, :, None, None] * jnp.ones((1, 5, 6, 1))
    found = adaptive_average(x, 3)
    assert found.shape == (1, 3, 3, 1)
    np.testing.assert_allclose(found[0, :, 0, 0], [0.5, 2.0, 3.5])  # rows 0-1, 1-3, 3-4
    np.testing.assert_allclose(adaptive_average(x[:, :2, :2], 3)[0, :, 0, 0], [0, 0.5, 1])
    assert adaptive_average(x, 5).shape == (1, 5, 5, 1)


def test_max_pooling_pads_with_nothing():
    x = -jnp.ones((1, 4, 4, 1))
    assert max_pool(x, 3, 2, padding=1).shape == (1, 2, 2, 1)
    assert float(max_pool(x, 3, 2, padding=1).max()) == -1
