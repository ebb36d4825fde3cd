"""RCIG: its closed form against automatic differentiation of the same problem in float64."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec as P

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.chosen import Chosen
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.conjugate_gradients import Solved
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.implicit import _safe
from frepo_scale.distill.member_gradient import frepo_gradient
from frepo_scale.distill.outer import OuterConfig
from frepo_scale.distill.pool import PoolConfig, initial_pool, take_member
from frepo_scale.distill.rcig import RCIG
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.distill.step import make_meta_gradient
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

CLASSES, SIZE, BATCH, SIDE, RIDGE = 3, 6, 8, 8, 5e-4
MODULE = ConvNet(num_classes=CLASSES, width=2, depth=2, norm="none")


def problem(flip=False, form="auto", loss="mse", chunk=1024, scale="absolute"):
    return Problem(
        MODULE,
        DistillConfig(ipc=2, steps=10, flip=flip, seed=1, chunk=chunk),
        PoolConfig(size=1),
        RidgeConfig(RIDGE, form, scale=scale),
        single_device_mesh(),
        SIZE,
        BATCH,
        OuterConfig(loss=loss, margin=0.0),
    )


def inputs(dtype):
    rng = np.random.default_rng(0)
    labels = np.eye(CLASSES)[np.arange(SIZE) % CLASSES] - 1 / CLASSES
    distilled = DistilledSet(
        jnp.asarray(rng.normal(size=(SIZE, SIDE, SIDE, 3)), dtype),
        jnp.asarray(labels + 0.05 * rng.normal(size=(SIZE, CLASSES)), dtype),
    )
    images = jnp.asarray(rng.normal(size=(BATCH, SIDE, SIDE, 3)), dtype)
    return distilled, Batch(images, jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32))


def pool_of(given, dtype):
    image = jax.ShapeDtypeStruct((SIDE, SIDE, 3), dtype)
    return initial_pool(given.module, given.pool, 1, image)


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
    return float(jnp.linalg.norm(ours - truth) / jnp.linalg.norm(truth))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flip", "form", "loss", "chunk", "unrolled"),
    [
        (False, "dual", "cross_entropy", 1024, True),
        (True, "dual", "mse", 5, False),
        (True, "primal", "cross_entropy", 1024, False),
    ],
)
def test_the_gradient_is_that_of_automatic_differentiation(
    flip, form, loss, chunk, unrolled, monkeypatch
):
    # The safeguard would hide an error of the implicit part.
    monkeypatch.setattr("frepo_scale.distill.implicit._clipped", lambda part, *_: part)
    if not unrolled:  # as on accelerators
        monkeypatch.setattr("frepo_scale.distill.implicit.platform_of", lambda mesh: "gpu")
    # A - I has the rank of at most the rows times the classes.
    iterations = 24 if unrolled else 150
    with jax.enable_x64(True):
        given = problem(flip, form, loss, chunk)
        algorithm = RCIG(given, inner_steps=iterations, implicit_steps=iterations, tolerance=1e-13)
        distilled, batch = inputs(jnp.float64)
        pool = pool_of(given, jnp.float64)
        sharpness = jnp.float64(0.3) if loss == "cross_entropy" else None
        found = jax.jit(make_meta_gradient(given, algorithm.member_gradient))(
            jnp.int32(0), distilled, sharpness, pool, jax.tree.map(lambda x: x[None], batch)
        )
        member = take_member(pool, jnp.int32(0))
        value, (d_images, d_labels, slope) = jax.jit(partial(by_differentiation, given))(
            member, distilled, batch, jnp.float64(0.3)
        )
        assert found.metrics["implicit_dropped"] == 0
        assert found.metrics["implicit_ratio"] > 1e-3  # there is an implicit part to compare
        np.testing.assert_allclose(found.metrics["loss"], value, rtol=1e-9)
        assert difference(found.distilled.images, d_images) < 1e-9
        assert difference(found.distilled.labels, d_labels) < 1e-9
        if sharpness is not None:
            np.testing.assert_allclose(found.sharpness, slope, rtol=1e-9)


@pytest.mark.parametrize("flip", [False, True])
def test_the_gradient_for_some_images_is_unbiased(flip):
    """The mean over all choices of 2 of the 6 images is the gradient."""
    given = problem(flip)
    distilled, batch = inputs(jnp.float32)
    member = take_member(pool_of(given, jnp.float32), jnp.int32(0))
    run = partial(
        jax.shard_map, mesh=single_device_mesh(), in_specs=P(), out_specs=P(), check_vma=False
    )

    @jax.jit
    def gradient(rows):
        chosen = None if rows is None else Chosen(rows, 2)
        return run(
            lambda d, b: frepo_gradient(given, member, d, jnp.ones(SIZE), b, None, chosen).distilled
        )(distilled, batch)

    every = gradient(None)
    pairs = list(itertools.combinations(range(SIZE), 2))
    parts = [gradient(jnp.array(pair)) for pair in pairs]
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
        run = partial(
            jax.shard_map, mesh=single_device_mesh(), in_specs=P(), out_specs=P(), check_vma=False
        )

        def gradient(rows):
            chosen = None if rows is None else Chosen(jnp.array(rows), len(rows))
            real = jnp.ones(SIZE)
            found = algorithm.member_gradient
            return jax.jit(
                run(lambda d, b: found(given, member, d, real, b, None, chosen).distilled)
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

    def safe(implicit, residual):
        solved = Solved(None, jnp.float32(residual), jnp.int32(1))
        mesh = single_device_mesh()
        run = partial(jax.shard_map, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
        return run(lambda a, b: _safe(a, b, solved, solved))(direct, implicit)

    extra, facts = safe(implicit, 0.1)
    np.testing.assert_allclose(extra.images, -3.0, rtol=1e-6)
    np.testing.assert_allclose(extra.labels, 0.5)
    np.testing.assert_allclose(facts["implicit_ratio"], 10.0, rtol=1e-6)
    assert facts["implicit_dropped"] == 0
    for bad, residual in (
        (implicit, 1.5),
        (implicit._replace(labels=jnp.full((2, 1), jnp.nan)), 0.1),
    ):
        extra, facts = safe(bad, residual)
        assert facts["implicit_dropped"] == 1
        assert all(np.array_equal(x, np.zeros_like(x)) for x in extra)


def test_a_relative_ridge_is_refused():
    with pytest.raises(InputError) as refused:
        RCIG(problem(scale="relative"))
    assert "RIDGE_SCALE" in str(refused.value)
    assert "--gin.RIDGE_SCALE=absolute" in refused.value.fix


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
