"""The blocked factorisation against LAPACK: one device, many devices, two processes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import finished, free_address, start

from frepo_scale.regression.cholesky import Spread, factorise, substitute

PROGRAM = Path(__file__).with_name("cholesky_run.py")


def problem(n, condition, seed=0, classes=7):
    """A symmetric positive definite matrix of that condition number, and right-hand sides."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix = (q * np.geomspace(1, 1 / condition, n)) @ q.T
    return (matrix + matrix.T) / 2, rng.normal(size=(n, classes))


def check_float32_against_lapack(problem, found, devices):
    """Against float64, not further off than twice LAPACK's own float32 result."""
    single, y = problem
    ours = found[f"factor{devices}"]
    assert (ours == np.tril(ours)).all()
    truth = scipy.linalg.cholesky(single.astype(np.float64), lower=True)
    theirs = scipy.linalg.cholesky(single, lower=True)
    assert theirs.dtype == ours.dtype == np.float32
    assert np.abs(ours - truth).max() <= 2 * np.abs(theirs - truth).max()
    truth = np.linalg.solve(single.astype(np.float64), y)
    theirs = scipy.linalg.cho_solve((theirs, True), y)
    assert np.linalg.norm(found[f"x{devices}"] - truth) <= 2 * np.linalg.norm(theirs - truth)


@pytest.mark.slow
def test_spread_over_devices_and_processes_it_is_lapacks_to_float32_roundoff(tmp_path):
    """n = 240 of condition 1e4 in blocks of 16, on 1, 2, 4, 8 devices and 2 processes x 4.

    Fifteen block rows: on more than one device, one of them stores a block row of zeros.
    """
    matrix, right = problem(240, 1e4)
    given = matrix.astype(np.float32), right.astype(np.float32)
    np.savez(tmp_path / "in.npz", matrix=given[0], right=given[1])
    common = (PROGRAM, tmp_path / "in.npz")
    finished(start(*common, tmp_path / "one.npz", 16, "[1, 2, 4, 8]", devices=8))
    with np.load(tmp_path / "one.npz") as found:
        for devices in (1, 2, 4, 8):
            check_float32_against_lapack(given, found, devices)
    address = free_address()
    outs = [tmp_path / f"two{own}.npz" for own in (0, 1)]
    pair = [
        start(*common, out, 16, "[8]", address, 2, own, devices=4) for own, out in enumerate(outs)
    ]
    for process, out in zip(pair, outs, strict=True):
        finished(process)
        with np.load(out) as found:
            check_float32_against_lapack(given, found, 8)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.sampled_from([1, 2, 5, 8]), st.integers(1, 4), st.integers(0, 99))
def test_any_size_and_block_solves_the_system_in_float64(n, block, classes, seed):
    with jax.enable_x64(True):
        spread = Spread(block=block)
        size = spread.padded(n)
        assert size % block == 0
        assert 0 <= size - n < block
        matrix, right = problem(n, 100.0, seed, classes)
        padded = np.eye(size)
        padded[:n, :n] = matrix
        y = np.zeros((size, classes))
        y[:n] = right
        factor = factorise(spread.local(jnp.asarray(padded)), spread)
        x = substitute(factor, jnp.asarray(y), spread)
        np.testing.assert_allclose(x[:n], np.linalg.solve(matrix, right), rtol=1e-9, atol=1e-9)


def test_the_upper_triangle_is_not_read():
    matrix = problem(16, 10.0)[0].astype(np.float32)
    spoiled = np.tril(matrix) + np.triu(np.full_like(matrix, 9.0), 1)
    spread = Spread(block=4)
    found = [factorise(spread.local(jnp.asarray(x)), spread) for x in (matrix, spoiled)]
    np.testing.assert_array_equal(*found)


def test_no_factor_is_nan_and_not_a_wrong_number():
    matrix, right = problem(32, 10.0)
    matrix[20, 20] = -1.0
    spread = Spread(block=4)
    factor = factorise(spread.local(jnp.asarray(matrix)), spread)
    assert np.isnan(substitute(factor, jnp.asarray(right), spread)).all()
