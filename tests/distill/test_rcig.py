"""RCIG: its closed form against automatic differentiation of the same problem in float64."""

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from one_device import on_one_device
from processes import finished, start
from rcig_problem import CLASSES, RIDGE, SHARPNESS, SIZE, inputs, pool_of, problem

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.chosen import Chosen
from frepo_scale.distill.frepo import FRePo, FRePoState
from frepo_scale.distill.implicit import _Inner, _safe
from frepo_scale.distill.member_gradient import frepo_gradient
from frepo_scale.distill.pool import PoolConfig, take_member
from frepo_scale.distill.rcig import RCIG, RCIGState
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.distill.step import make_meta_gradient
from frepo_scale.regression.ridge import RidgeConfig

PROGRAM = Path(__file__).with_name("rcig_run.py")


def by_differentiation(given, member, distilled, batch, sharpness):
    """The meta-gradient through an exact, dense solve of the inner problem."""
    kernel = member.params["head"]["kernel"]
    body = {n: p for n, p in member.params.items() if n != "head"} | {
        "head": {"bias": member.params["head"]["bias"]}
    }
    start, unravel = ravel_pytree(body)
    rho = RIDGE * SIZE

    def net(flat, x):
        params = unravel(flat)
        params = params | {"head": params["head"] | {"kernel": kernel}}
        return given.module.apply({"params": params, "batch_stats": {}}, x, train=False)

    def jacobian_times(x, v):
        return jax.jvp(lambda flat: net(flat, x)[0], (start,), (v,))[1]

    def rows(images, labels):
        if not given.config.flip:
            return images, labels
        return (
            jnp.concatenate([images, images[:, :, ::-1]]),
            jnp.concatenate([labels, labels]),
        )

    def regularised(x):
        features = net(start, x)[1]
        return features, features @ features.T + rho * jnp.eye(len(x))

    def inner(tau, images, labels):
        x, y = rows(images, labels)
        _, gram = regularised(x)
        r = y - jacobian_times(x, tau)
        return 0.5 * rho * (jnp.sum(r * jnp.linalg.solve(gram, r)) + tau @ tau)

    def best(images, labels):
        zero = jnp.zeros_like(start)
        hessian = jax.hessian(inner)(zero, images, labels)
        return -jnp.linalg.solve(hessian, jax.grad(inner)(zero, images, labels))

    def loss(images, labels, sharpness):
        tau = best(images, labels)
        x, y = rows(images, labels)
        features, gram = regularised(x)
        weights = features.T @ jnp.linalg.solve(gram, y - jacobian_times(x, tau))
        pred = jacobian_times(batch.images, tau) + net(start, batch.images)[1] @ weights
        onehot = jnp.eye(CLASSES)[batch.labels]
        if given.outer.loss == "mse":
            return jnp.mean(0.5 * jnp.sum((pred - onehot + 1 / CLASSES) ** 2, -1))
        logits = jax.nn.log_softmax(pred * jnp.exp(sharpness))
        return -jnp.mean(jnp.sum(onehot * logits, -1))

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(*distilled, sharpness)


def difference(ours, truth):
    ours, truth = np.asarray(ours), np.asarray(truth)
    assert ours.dtype == truth.dtype == np.float64
    return np.linalg.norm(ours - truth) / np.linalg.norm(truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flip", "form", "loss", "chunk", "devices"),
    [
        (False, "dual", "cross_entropy", 1024, 4),
        (True, "dual", "mse", 5, 1),
        (True, "primal", "cross_entropy", 1024, 4),
    ],
)
def test_the_gradient_is_that_of_automatic_differentiation(
    flip, form, loss, chunk, devices, tmp_path
):
    """On four devices with 2, 2, 2 and 0 of the six images, too."""
    case = {"flip": flip, "form": form, "loss": loss, "chunk": chunk}
    file, paths = tmp_path / "found.npz", [PROGRAM.parents[1]]
    finished(start(PROGRAM, json.dumps(case), file, devices=devices, paths=paths))
    with np.load(file) as stored:
        found = dict(stored)
    with jax.enable_x64(True):
        given = problem(**case)
        distilled, batch = inputs(jnp.float64)
        member = take_member(pool_of(given, jnp.float64), jnp.int32(0))
        value, (d_images, d_labels, slope) = jax.jit(partial(by_differentiation, given))(
            member, distilled, batch, jnp.float64(SHARPNESS)
        )
    assert found["implicit_dropped"] == 0
    assert found["implicit_ratio"] > 1e-3  # there is an implicit part to compare
    np.testing.assert_allclose(found["loss"], value, rtol=1e-9)
    assert difference(found["images"], d_images) < 1e-9
    assert difference(found["labels"], d_labels) < 1e-9
    if loss == "cross_entropy":
        np.testing.assert_allclose(found["sharpness"], slope, rtol=1e-9)


@pytest.mark.parametrize("flip", [False, True])
def test_the_gradient_for_some_images_is_unbiased(flip):
    """The mean over all choices of 2 of the 6 images is the gradient."""
    given = problem(flip)
    distilled, batch = inputs(jnp.float32)
    member = take_member(pool_of(given, jnp.float32), jnp.int32(0))

    @on_one_device
    def gradient(d, b, rows):
        chosen = None if rows is None else Chosen(rows, 2)
        return frepo_gradient(given, member, d, jnp.ones(SIZE), b, None, chosen).distilled

    every = gradient(distilled, batch, None)
    pairs = list(itertools.combinations(range(SIZE), 2))
    parts = [gradient(distilled, batch, jnp.array(pair)) for pair in pairs]
    for pair, part in zip(pairs, parts, strict=True):
        there = np.abs(np.asarray(part.images)).sum((1, 2, 3)) > 0
        assert np.flatnonzero(there).tolist() == list(pair)
        assert np.array_equal(part.labels, every.labels)
    mean = sum(np.asarray(part.images) for part in parts) / len(parts)
    np.testing.assert_allclose(mean, every.images, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_the_implicit_gradient_for_some_images_is_that_of_a_body_linearised_on_them(monkeypatch):
    """With all images chosen, in another order, it is the gradient; with some, others get none."""
    monkeypatch.setattr("frepo_scale.distill.implicit.platform_of", lambda mesh: "gpu")
    with jax.enable_x64(True):
        given = problem(flip=True)
        algorithm = RCIG(given, inner_steps=150, implicit_steps=150, tolerance=1e-13)
        distilled, batch = inputs(jnp.float64)
        member = take_member(pool_of(given, jnp.float64), jnp.int32(0))

        def gradient(rows):
            chosen = None if rows is None else Chosen(jnp.array(rows), len(rows))
            real = jnp.ones(SIZE)
            found = algorithm.member_gradient
            return on_one_device(
                lambda d, b: found(given, member, d, real, b, None, chosen).distilled
            )(distilled, batch)

        every, permuted, some = gradient(None), gradient([3, 1, 0, 5, 4, 2]), gradient([4, 1])
        assert difference(permuted.images, every.images) < 1e-9
        assert difference(permuted.labels, every.labels) < 1e-9
        there = np.abs(np.asarray(some.images)).sum((1, 2, 3)) > 0
        assert np.flatnonzero(there).tolist() == [1, 4]


def test_without_inner_steps_it_is_frepo():
    given = problem()
    distilled, batch = inputs(jnp.float32)
    pool = pool_of(given, jnp.float32)

    def gradient(algorithm):
        function = jax.jit(make_meta_gradient(given, algorithm.member_gradient))
        targets = jax.tree.map(lambda x: x[None], batch)
        return function(jnp.int32(0), distilled, None, pool, targets).distilled

    found, expected = gradient(RCIG(given, inner_steps=0)), gradient(FRePo(given))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_implicit_part_is_clipped_to_the_direct_one_and_dropped_where_it_is_useless():
    direct = DistilledSet(jnp.full((2, 2), 3.0), jnp.full((2, 1), 1.0))
    implicit = DistilledSet(jnp.full((2, 2), -30.0), jnp.full((2, 1), 0.5))

    safe = on_one_device(_safe)
    extra, facts = safe(direct, implicit, True)
    np.testing.assert_allclose(extra.images, -3.0, rtol=1e-6)
    np.testing.assert_allclose(extra.labels, 0.5)
    np.testing.assert_allclose(facts["implicit_ratio"], 10.0, rtol=1e-6)
    assert facts["implicit_dropped"] == 0
    for bad, solved in (
        (implicit, False),
        (implicit._replace(labels=jnp.full((2, 1), jnp.nan)), True),
    ):
        extra, facts = safe(direct, bad, solved)
        assert facts["implicit_dropped"] == 1
        assert all(np.array_equal(x, np.zeros_like(x)) for x in extra)


@pytest.mark.slow
def test_without_reliable_solves_it_is_the_gradient_of_frepo(monkeypatch):
    """With K replaced by -K the matrix of both systems is indefinite."""
    monkeypatch.setattr("frepo_scale.distill.implicit.platform_of", lambda mesh: "gpu")
    inverse = _Inner.inverse
    monkeypatch.setattr(_Inner, "inverse", lambda inner, z: -inverse(inner, z))
    given = problem()
    distilled, batch = inputs(jnp.float32)
    member = take_member(pool_of(given, jnp.float32), jnp.int32(0))

    def gradient(function):
        return on_one_device(lambda d, b: function(given, member, d, jnp.ones(SIZE), b, None, None))

    found = gradient(RCIG(given).member_gradient)(distilled, batch)
    expected = gradient(frepo_gradient)(distilled, batch)
    assert found.metrics["implicit_dropped"] == 1
    for ours, theirs in zip(found.distilled, expected.distilled, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_dropped_parts_are_counted_in_every_step(monkeypatch):
    """Also in those that are not logged; the log, the result and the report then say so."""
    algorithm = RCIG(problem()._replace(pool=PoolConfig(size=4, members=2)))
    dropped = iter([0.0, 0.5, 1.0, 0.0])

    def step(_, state, batch):
        part = {"implicit_dropped": jnp.float32(next(dropped))}
        return FRePoState(state.step + 1, *state[1:-1]), part

    monkeypatch.setattr(FRePo, "step", step)
    state = RCIGState(jnp.int32(0), *4 * [None], dropped=jnp.int32(0))
    rows = []
    for _ in range(4):
        state, row = algorithm.step(state, None)
        rows.append({name: float(value) for name, value in row.items()})
    assert state.dropped == 3 and state.dropped.dtype == jnp.int32
    assert [row["implicit_dropped_share"] for row in rows] == [0, 0.25, 0.5, 0.375]
    assert algorithm.warning(rows[0]) == ""
    assert "38 %" in algorithm.warning(rows[3])  # of which nothing was dropped
    facts, line = algorithm.summary([rows[0], rows[3]])
    assert facts == {"ridge_raised_share": 0.0, "implicit_dropped_share": 0.375}
    assert "--gin.RIDGE" in line
    assert algorithm.summary([])[0]["implicit_dropped_share"] == 0


def test_solves_that_stop_early_are_a_warning_with_the_steps_to_raise():
    algorithm = RCIG(problem(), inner_steps=2, implicit_steps=2)
    fine = {"inner_residual": 0.1, "inner_last_fall": 0.1, "implicit_residual": 1.9}
    assert algorithm.warning(fine | {"implicit_last_fall": 0.1}) == ""
    line = algorithm.warning(fine | {"implicit_last_fall": 0.7})
    assert "70 %" in line and "'implicit_steps'" in line and "ALGORITHM_ARGS" in line
    assert "inner_steps" not in line
    solved = {"inner_residual": 1e-4, "inner_last_fall": 1.0}  # one iteration was enough
    assert algorithm.warning(solved) == ""


@pytest.mark.parametrize(
    ("scale", "ridge", "named"),
    [("relative", RIDGE, "RIDGE_SCALE = 'relative'"), ("absolute", 0.0, "RIDGE = 0 ")],
)
def test_a_relative_ridge_and_none_are_refused(scale, ridge, named):
    with pytest.raises(InputError) as refused:
        RCIG(problem()._replace(ridge=RidgeConfig(ridge, scale=scale)))
    assert named in refused.value.what
    assert "--gin.RIDGE=5e-4" in refused.value.fix


class Headless(nn.Module):
    """A net whose last layer has another name."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        features = images.reshape(len(images), -1)
        return nn.Dense(self.num_classes, name="last")(features), features


def test_a_net_without_a_head_is_refused():
    algorithm = RCIG(problem()._replace(module=Headless(CLASSES)))
    with pytest.raises(InputError) as refused:
        jax.eval_shape(algorithm.init, inputs(jnp.float32)[0])
    assert "'head'" in str(refused.value)


@pytest.mark.slow
def test_steps_from_the_framework_improve_the_loss():
    given = problem(loss="cross_entropy")
    given = given._replace(
        config=replace(given.config, learning_rate=0.03),
        outer=replace(given.outer, optimiser="adabelief", schedule="constant"),
    )
    algorithm = RCIG(given, inner_steps=3, implicit_steps=3)
    distilled, batch = inputs(jnp.float32)
    state = initial_train_state(algorithm, DistilledSet(*map(np.asarray, distilled)))
    step = make_train_step(algorithm, state)
    losses = []
    for _ in range(12):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert metrics["inner_iterations"] <= 3
    assert losses[-1] < losses[0]
