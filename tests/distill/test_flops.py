"""Counted operations against a count by hand."""

import pytest

from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.flops import forward_flops, outer_step_flops
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
    gram = 2 * 20 * 256 * 20 + 20**3 / 3
    rest = 3 * 2 * 20**2 * 10 + 2 * 256 * 10 * (2 * 16 + 3 * 20) + 2 * 20 * 256 * 20
    found = outer_step_flops(parts(), image, 10)
    assert found == pytest.approx(nets + gram + rest)
    assert outer_step_flops(parts(members=2), image, 10) == pytest.approx(2 * found)
    assert outer_step_flops(parts(flip=True), image, 10) > found + 2 * 20 * flops
