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


class WithFields(Own):
    heads: int = 1
    sizes: tuple = ()
    table: dict = None


class Demanding(Own):
    heads: int = None

    def __post_init__(self):
        if self.heads is None:
            raise ValueError("no heads")
        super().__post_init__()


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
    module.WithFields, module.Demanding = WithFields, Demanding
    module.OursNormed, module.FlaxNormed = OursNormed, FlaxNormed
    monkeypatch.setitem(sys.modules, "some_nets", module)


def test_the_named_net():
    module = build_net(NetConfig(width=4, depth=2, norm="layer"), 5, SHAPE)
    assert module == ConvNet(num_classes=5, width=4, depth=2, norm="layer")
    assert feature_dim(module, SHAPE) == 8 * 2 * 2


def test_a_users_net_gets_the_fields_it_has():
    module = build_net(NetConfig(name="some_nets.Own", width=7), 5, SHAPE)
    assert module == Own(num_classes=5, width=7)
    assert feature_dim(module, SHAPE) == 7


def test_a_users_net_gets_its_further_fields_and_stays_hashable():
    args = {"heads": 3, "sizes": [1, [2, 3]], "table": {"a": [4]}}
    module = build_net(NetConfig(name="some_nets.WithFields", width=7, args=args), 5, SHAPE)
    assert (module.heads, module.sizes, module.table) == (3, (1, (2, 3)), {"a": (4,)})
    assert isinstance(hash(module), int)
    assert build_net(NetConfig(name="some_nets.WithFields"), 5, SHAPE).heads == 1


def test_args_are_kept_as_json_reads_them_back():
    """The settings of a workdir are compared with those stored in it as JSON."""
    config = NetConfig(args={"sizes": (1, (2.5, None)), "on": True})
    assert config.args == {"sizes": [1, [2.5, None]], "on": True}
    assert config.for_evaluation().args == config.args


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("some_nets.WithFields", {"head": 3}, "heads"),
        ("some_nets.Own", {"heads": 3}, "NET_ARGS"),
        ("convnet", {"heads": 3}, "NET_ARGS"),
        ("some_nets.WithFields", {"parent": 3}, "heads"),
        ("some_nets.Demanding", {}, "heads"),
    ],
)
def test_fields_the_net_does_not_have_or_needs(name, args, message):
    with pytest.raises(InputError) as caught:
        build_net(NetConfig(name=name, args=args), 5, SHAPE)
    assert repr(name) in caught.value.what
    assert all(repr(field) in caught.value.what for field in args)
    assert message in caught.value.fix


@pytest.mark.parametrize("setting", ["width", "depth", "norm", "num_classes"])
def test_fields_with_a_setting_are_refused_as_args(setting):
    with pytest.raises(InputError) as caught:
        NetConfig(args={setting: 3})
    assert repr(setting) in caught.value.what
    assert ("DATASET" if setting == "num_classes" else setting.upper()) in caught.value.fix


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnett", "did you mean convnet"),
        ("some_nets.Missing", "some_nets.Missing"),
        ("no_such_module.Net", "PYTHONPATH"),
        ("some_nets.thing", r"flax\.linen.*Module"),
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
    with pytest.raises(InputError, match=r"BatchNorm_0 .* frepo_scale\.models\.norm"):
        build_net(NetConfig(name="some_nets.FlaxNormed"), 5, SHAPE, spread=True)


def test_a_vanishing_map_is_refused_with_the_deepest_possible():
    build_net(NetConfig(width=1, depth=3), 5, SHAPE)
    with pytest.raises(InputError, match=r"DEPTH = 4.*--gin\.DEPTH=3"):
        build_net(NetConfig(width=1, depth=4), 5, SHAPE)


def test_the_activation_of_the_pool_is_not_that_of_evaluation_nets():
    config = NetConfig(activation="softplus", softplus_beta=30.0)
    module = build_net(config, 3, (8, 8, 3))
    assert (module.activation, module.softplus_beta) == ("softplus", 30.0)
    assert build_net(config.for_evaluation(), 3, (8, 8, 3)).activation == "relu"


def test_a_net_without_the_field_refuses_another_activation():
    with pytest.raises(InputError) as refused:
        build_net(NetConfig(f"{__name__}.Own", activation="softplus"), 3, (8, 8, 3))
    assert "POOL_ACTIVATION" in str(refused.value)
    assert refused.value.fix == "use --gin.POOL_ACTIVATION=relu"


def test_evaluation_nets_have_no_batch_norm_and_keep_other_norms():
    assert NetConfig(norm="batch").for_evaluation().norm == "none"
    assert NetConfig(norm="group").for_evaluation() == NetConfig(norm="group")


def test_the_norm_of_evaluation_nets_may_be_named():
    chosen = NetConfig(norm="batch", evaluation_norm="batch")
    assert chosen.for_evaluation().norm == chosen.for_evaluation().for_evaluation().norm == "batch"
    assert NetConfig(norm="none", evaluation_norm="layer").for_evaluation().norm == "layer"


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"depth": 0},
        {"norm": "bach"},
        {"evaluation_norm": "bach"},
        {"name": 3},
        {"args": "heads"},
        {"args": {3: 4}},
        {"args": {"heads": float("nan")}},
        {"args": {"heads": object()}},
        {"args": {"heads": {3}}},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        NetConfig(**wrong)
