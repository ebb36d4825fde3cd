"""Warnings and summary of FRePo about its regression."""

import pytest

from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

RAISED, FINE = {"ridge_raised": 1.0, "ridge_in_force": 1e-4}, {"ridge_raised": 0.0}


@pytest.fixture
def frepo():
    module = ConvNet(num_classes=3, width=2, depth=1)
    return FRePo(
        Problem(module, DistillConfig(), PoolConfig(), RidgeConfig(), single_device_mesh(), 3, 4)
    )


def test_a_raised_ridge_is_a_warning_with_both_ridges(frepo):
    assert frepo.warning(FINE) == ""
    assert frepo.warning({"loss": 1.0}) == ""
    line = frepo.warning(RAISED)
    assert "RIDGE = 1e-06" in line and "1.0e-04" in line


def test_an_inaccurate_gradient_is_a_warning(frepo):
    assert frepo.warning(FINE | {"gradient_error_bound": 1e-4}) == ""
    assert "2.0e-02" in frepo.warning(FINE | {"gradient_error_bound": 2e-2})


@pytest.mark.parametrize(("raised", "advised"), [(0, False), (2, False), (3, True)])
def test_the_summary_has_the_share_and_advice_above_one_half(frepo, raised, advised):
    rows = [RAISED] * raised + [FINE] * (4 - raised) + [{"probe_accuracy": 0.5}]
    facts, line = frepo.summary(rows)
    assert facts == {"ridge_raised_share": raised / 4}
    assert ("--gin.RIDGE=1e-04" in line) == advised


@pytest.mark.parametrize(
    ("in_force", "advised"),
    [(1e-4, "1e-04"), (1.0001e-5, "1e-05"), (1.2e-3, "2e-03"), (9.3e-5, "1e-04"), (0.5, "5e-01")],
)
def test_the_advised_ridge_is_not_below_the_one_in_force(frepo, in_force, advised):
    _, line = frepo.summary([RAISED | {"ridge_in_force": in_force}])
    assert f"--gin.RIDGE={advised} " in line


def test_without_rows_there_is_nothing_to_say(frepo):
    assert frepo.summary([]) == ({"ridge_raised_share": 0.0}, "")
