"""Counted operations against a count by hand."""

import pytest

from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.flops import forward_flops, outer_step_flops, outer_step_phases
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig


def parts(members=1, flip=False, size=20, batch=16):
    module = ConvNet(num_classes=10, width=8, depth=2, norm="none")
    return Problem(
        module,
        DistillConfig(ipc=size // 10, steps=10, flip=flip),
        PoolConfig(size=4, members=members),
        RidgeConfig(),
        single_device_mesh(),
        size,
        batch,
    )


def test_one_image_through_the_net():
    # Two convolutions 3x3 (the border costs less: zeros outside are not multiplied), one layer.
    most = 2 * 9 * (16 * 16 * 3 * 8 + 8 * 8 * 8 * 16) + 2 * 256 * 10
    assert 0.8 * most < forward_flops(parts(), (16, 16, 3)) < 1.2 * most


def test_a_step_by_hand():
    image, flops = (16, 16, 3), forward_flops(parts(), (16, 16, 3))
    nets = flops * (16 + 2 * 20 + 3 * 20)
    # R = 20 rows, d = 256 features, K = 10 classes, B = 16 targets: the dual form, n = 20.
    gram = 2 * 20 * 256 * 20
    solves = 20**3 / 3 + 2 * (2 * 20**2 * 10)
    # W = FᵀA; predictions F_t W; dW = F_tᵀ E; F dW, FᵀB, A (dW - FᵀB)ᵀ, B Wᵀ.
    one = 2 * 256 * 10
    products = 20 * one + 16 * one + 16 * one + 4 * 20 * one
    found = outer_step_flops(parts(), image, 10)
    assert found == pytest.approx(nets + gram + solves + products)
    assert outer_step_flops(parts(members=2), image, 10) == pytest.approx(2 * found)
    assert outer_step_flops(parts(flip=True), image, 10) > found + 2 * 20 * flops


def test_the_primal_form_by_hand():
    # R = 300 rows of d = 256 features: n = 256. One product for FᵀY, then F V, F W, E Vᵀ, dY Wᵀ.
    found = outer_step_phases(parts(size=300), (16, 16, 3), 10)
    assert found["Gram matrix"] == 2 * 300 * 256 * 256
    assert found["factorisation and solves"] == pytest.approx(256**3 / 3 + 4 * 256**2 * 10)
    assert found["products with features"] == 2 * 256 * 10 * (2 * 16 + 5 * 300)
