"""Classes and modules of a user that are not valid nets."""

import pytest

from frepo_scale.main import main

NETS = """
import flax.linen as nn
import jax.numpy as jnp


class Good(nn.Module):
    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images, train):
        features = nn.BatchNorm(use_running_average=not train)(images)
        features = nn.Dense(self.width)(features.reshape(len(images), -1))
        return nn.Dense(self.num_classes)(features), features


class OnlyLogits(Good):
    def __call__(self, images, train):
        return super().__call__(images, train)[0]


class Transposed(Good):
    def __call__(self, images, train):
        logits, features = super().__call__(images, train)
        return features, logits


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images, images


class Dropping(Good):
    @nn.compact
    def __call__(self, images, train):
        logits, features = super().__call__(images, train)
        return nn.Dropout(0.5)(logits, deterministic=not train), features


class Weightless(nn.Module):
    def __call__(self, images, train):
        return jnp.zeros((len(images), 10)), images.reshape(len(images), -1)


class Demanding(nn.Module):
    heads: int


def a_function(images, train):
    return images
"""


@pytest.fixture
def nets(cwd, monkeypatch):
    (cwd / "users_nets.py").write_text(NETS)
    (cwd / "broken_nets.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(cwd)
    monkeypatch.setattr("sys.dont_write_bytecode", True)


def test_a_net_of_the_users_own_works(nets, capsys):
    assert main(["distill", "digits_ipc1", "--dry-run", "--gin.NET=users_nets.Good"]) == 0
    assert "Dense_1/kernel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "mentions"),
    [
        ("users_nets.OnlyLogits", ["(logits (B, K), features (B, d))"]),
        ("users_nets.Transposed", ["returned shapes (2, 32) and (2, 10)"]),
        ("users_nets.NoTrain", ["train"]),
        ("users_nets.Dropping", ["dropout"]),
        ("users_nets.Weightless", ["no parameters"]),
        ("users_nets.Demanding", ["'heads'", "num_classes, width, depth, norm"]),
        ("users_nets.a_function", ["a subclass of flax.linen"]),
        ("users_nets.Missing", ["Missing", "can import"]),
        ("users_nets", ["the dotted path"]),
        ("broken_nets.Net", ["division by zero"]),
        ("no_such_file.Net", ["no_such_file", "PYTHONPATH"]),
        (".Net", ["'.Net'"]),
        ("users_nets.", ["'users_nets.'"]),
        ("os.path", ["a subclass of flax.linen"]),
    ],
)
def test_another_net_is_refused(name, mentions, nets, distill):
    distill(f"--gin.NET={name}", mentions=[f"NET = {name!r}", *mentions])
