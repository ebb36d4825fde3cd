"""The float32 regression against float64 on features of real images: the benchmark, bounded.

Float64, the default on CPU and GPU, is the reference; float32 is what TPUs have.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "regression_accuracy.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("regression_accuracy", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real(table):
    return table.features()


def cells(table, real, form, ridge):
    """(where, error of prediction, of gradient, raised) of every net and size."""
    found, labels, targets = real
    for name, (f_t, f_s) in found.items():
        for ratio in table.RATIOS:
            rows = int(ratio * f_s.shape[1])
            chosen = form or ("dual" if rows <= f_s.shape[1] else "primal")
            arguments = (f_t, f_s[:rows], labels[:rows], targets)
            yield (name, ratio), *table.cell(chosen, ridge, arguments)


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize("ridge", [1e-3, 1e-1])
def test_from_a_ridge_of_one_thousandth_float32_is_accurate(table, real, form, ridge):
    for where, pred, gradient, _ in cells(table, real, form, ridge):
        assert pred <= 1e-2, (where, pred)
        assert gradient <= 5e-2, (where, gradient)


@pytest.mark.parametrize("ridge", [1e-6, 1e-4])
def test_below_it_the_form_taken_by_itself_is_finite_and_close_or_says_it_raised(
    table, real, ridge
):
    for where, pred, gradient, raised in cells(table, real, None, ridge):
        assert np.isfinite([pred, gradient]).all(), where
        assert raised or (pred <= 5e-2 and gradient <= 1e-1), (where, pred, gradient)
