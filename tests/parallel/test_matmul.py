"""The precision of products: what is compiled, and the variable of the environment."""

import re

import jax
import jax.numpy as jnp
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.matmul import MATMUL_PRECISIONS, matmul_precision

VARIABLE = "JAX_DEFAULT_MATMUL_PRECISION"
MODULE = ConvNet(num_classes=3, width=2, depth=2)
IMAGES = jnp.zeros((2, 8, 8, 3))


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def program():
    """The program of a net's gradient, before the compiler."""
    variables = MODULE.init(jax.random.key(0), IMAGES)

    def loss(variables, images):
        return jnp.sum(MODULE.apply(variables, images)[0] ** 2)

    return jax.jit(jax.grad(loss)).lower(variables, IMAGES).as_text()


def test_the_default_is_the_program_that_jax_makes_by_itself():
    by_itself = program()
    with matmul_precision("default"):
        assert program() == by_itself
    for other in ("high", "highest"):
        with matmul_precision(other):
            assert program() != by_itself
    assert program() == by_itself  # nothing remains changed


@pytest.mark.parametrize("precision", MATMUL_PRECISIONS)
def test_every_product_has_the_precision(precision):
    with matmul_precision(precision):
        lines = program().splitlines()
    products = [line for line in lines if "convolution(" in line or "dot_general" in line]
    # Forward two convolutions and the head; backward to their weights and inputs, without images.
    assert len(products) >= 3 + 5
    for line in products:
        assert re.findall(r"\b(?:DEFAULT|HIGHEST|HIGH)\b", line) == [precision.upper()] * 2, line


@pytest.mark.parametrize("value", ["highest", "float32", "bfloat16", "F32_F32_F32"])
def test_another_precision_in_the_environment_is_refused(value, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InputError) as refused:
        matmul_precision("default")
    assert VARIABLE in refused.value.what
    assert repr(value) in refused.value.what
    assert "MATMUL_PRECISION = 'default'" in refused.value.what


def test_the_same_precision_in_the_environment_is_accepted(monkeypatch):
    monkeypatch.setenv(VARIABLE, "highest")
    with matmul_precision("highest"):
        assert "HIGHEST" in program()
