"""Nets by name and by dotted path."""

import sys
import types

import flax.linen as nn
import jax.numpy as jnp
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.models.convnet import ConvNet
from frepo_scale.models.norm import BatchNorm
from frepo_scale.models.registry import NetConfig, build_net, feature_dim

SHAPE = (8, 8, 3)


class Own(nn.Module):
    num_classes: int
    width: int

    @nn.compact
    def __call__(self, x, train=False):
        features = nn.Dense(self.width)(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(features), features


class Wrong(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return jnp.zeros((len(x), 99)), x.reshape(len(x), -1)


class Normed(nn.Module):
    num_classes: int
    ours: bool

    @nn.compact
    def __call__(self, x, train=False):
        theirs = nn.BatchNorm(use_running_average=not train)
        x = BatchNorm()(x, train) if self.ours else theirs(x)
        features = x.reshape(len(x), -1)
        return nn.Dense(self.num_classes)(features), features


class OursNormed(Normed):
    ours: bool = True


class FlaxNormed(Normed):
    ours: bool = False


class Failing(nn.Module):
    def __call__(self, x, train=False):
        raise RuntimeError("no luck")


@pytest.fixture(autouse=True)
def nets(monkeypatch):
    module = types.ModuleType("some_nets")
    module.Own, module.Wrong, module.Failing, module.thing = Own, Wrong, Failing, 3
    module.OursNormed, module.FlaxNormed = OursNormed, FlaxNormed
    monkeypatch.setitem(sys.modules, "some_nets", module)


def test_the_named_net():
    module = build_net(NetConfig(width=4, depth=2, norm="layer"), 5, SHAPE)
    assert module == ConvNet(num_classes=5, width=4, depth=2, norm="layer")
    assert feature_dim(module, SHAPE) == 8 * 2 * 2


def test_an_own_net_gets_the_fields_it_has():
    module = build_net(NetConfig(name="some_nets.Own", width=7), 5, SHAPE)
    assert module == Own(num_classes=5, width=7)
    assert feature_dim(module, SHAPE) == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnett", "did you mean convnet"),
        ("some_nets.Missing", "importable"),
        ("no_such_module.Net", "PYTHONPATH"),
        ("some_nets.thing", r"flax\.linen\.Module"),
        ("some_nets.Wrong", r"returned shapes \(2, 99\)"),
        ("some_nets.Failing", "no luck"),
    ],
)
def test_other_nets_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        build_net(NetConfig(name=name), 5, SHAPE)


def test_statistics_of_a_spread_batch_are_of_the_whole_batch():
    for spread in (False, True):
        build_net(NetConfig(name="some_nets.OursNormed"), 5, SHAPE, spread)
        build_net(NetConfig(name="some_nets.Own"), 5, SHAPE, spread)
    build_net(NetConfig(name="some_nets.FlaxNormed"), 5, SHAPE)
    with pytest.raises(InputError, match=r"BatchNorm_0 keeps .* frepo_scale\.models\.norm"):
        build_net(NetConfig(name="some_nets.FlaxNormed"), 5, SHAPE, spread=True)


def test_a_vanishing_map_is_refused_with_the_deepest_possible():
    build_net(NetConfig(width=1, depth=3), 5, SHAPE)
    with pytest.raises(InputError, match=r"DEPTH = 4.*--gin\.DEPTH=3"):
        build_net(NetConfig(width=1, depth=4), 5, SHAPE)


def test_evaluation_nets_have_no_batch_norm_and_keep_other_norms():
    assert NetConfig(norm="batch").for_evaluation().norm == "none"
    assert NetConfig(norm="group").for_evaluation() == NetConfig(norm="group")


@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": 0}, {"norm": "bach"}, {"name": 3}])
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        NetConfig(**wrong)
