"""Training and testing one fresh net."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.types import Split
from frepo_scale.evaluate.fit import FitConfig, Fitter
from frepo_scale.models.apply import apply_net
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.preemption import Preempted, Preemption

MODULE = ConvNet(num_classes=3, width=4, depth=2, norm="none")


def config(**changes):
    settings = {
        "steps": 60,
        "batch": 8,
        "learning_rate": 1e-2,
        "constant": True,
        "augment": AugmentConfig(flip=False),
    }
    return FitConfig(**(settings | changes))


def blobs(n, seed=0):
    """Three classes that differ in their brightest corner."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int32) % 3
    images = rng.normal(size=(n, 8, 8, 1)).astype(np.float32) * 0.3
    images[labels == 0, :4, :4] += 1
    images[labels == 1, :4, 4:] += 1
    images[labels == 2, 4:, :] += 1
    return images, labels


def centred(labels):
    return (np.eye(3)[labels] - 1 / 3).astype(np.float32)


def fit(fit_config, net=0, n=24, seed=0, preemption=None):
    images, labels = blobs(n)
    fitter = Fitter(MODULE, fit_config, n, seed)
    data = DistilledSet(jnp.asarray(images), jnp.asarray(centred(labels)))
    counted = []
    state = fitter.fit(data, net, preemption or Preemption(), counted.append)
    return fitter, state, sum(counted)


def test_it_learns_and_generalises():
    fitter, state, counted = fit(config())
    images, labels = blobs(90, seed=1)
    top1, top5 = fitter.test(state, Split(images, labels))
    assert top1 > 0.9
    assert top5 == 1.0
    assert counted == 60
    assert int(state.step) == 60


def test_the_same_seed_and_net_give_the_same_bits_and_others_do_not():
    kernel = lambda *a, **k: np.asarray(fit(*a, **k)[1].params["head"]["kernel"])  # noqa: E731
    short = config(steps=5)
    first = kernel(short)
    np.testing.assert_array_equal(first, kernel(short))
    assert not np.array_equal(first, kernel(short, net=1))
    assert not np.array_equal(first, kernel(short, seed=1))


def test_bfloat16_training_keeps_float32_and_learns_the_same():
    _, exact, _ = fit(config())
    fitter, state, _ = fit(config(dtype="bfloat16"))
    kinds = lambda tree: jax.tree.map(lambda x: x.dtype, tree)  # noqa: E731
    assert kinds(state) == kinds(exact)
    kernels = [np.asarray(one.params["head"]["kernel"]) for one in (exact, state)]
    assert not np.array_equal(*kernels)
    images, labels = blobs(90, seed=1)
    assert fitter.test(state, Split(images, labels))[0] > 0.9


def test_nets_are_tested_in_float32_whatever_they_were_trained_in():
    """Bfloat16 logits are often equal, and of equal ones the first class would win."""
    fitter, state, _ = fit(config(steps=2, dtype="bfloat16"))
    images, _ = blobs(1000, seed=3)
    found = {
        dtype: np.argmax(apply_net(MODULE, state.params, {}, images, dtype, train=False).logits, -1)
        for dtype in ("float32", "bfloat16")
    }
    assert np.mean(found["float32"] == found["bfloat16"]) < 0.999  # the case tells them apart
    rows = Split(images, found["float32"].astype(np.int32))
    assert fitter.test(state, rows)[0] == 1.0


def test_accuracy_counts_every_test_image_once():
    """Sizes that do not divide the test batch are padded, and the padding is not counted."""
    fitter, state, _ = fit(config(steps=30))
    images, labels = blobs(1203, seed=2)
    logits, _ = MODULE.apply({"params": state.params}, images)
    expected = np.mean(np.argmax(logits, -1) == labels)
    assert 0.3 < expected < 1.0 or expected == 1.0
    top1, _ = fitter.test(state, Split(images, labels))
    np.testing.assert_allclose(top1, expected, atol=1e-6)


def test_logits_of_any_number_of_images():
    fitter, state, _ = fit(config(steps=2))
    images, _ = blobs(503)
    found = fitter.logits(state, images)
    expected, _ = MODULE.apply({"params": state.params}, images)
    assert found.shape == (503, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_top5_by_hand_and_nan_is_a_miss():
    module = ConvNet(num_classes=8, width=1, depth=1, norm="none")
    fitter = Fitter(module, config(), 8, 0)
    images = np.random.default_rng(0).normal(size=(40, 8, 8, 1)).astype(np.float32)
    labels = (np.arange(40) % 8).astype(np.int32)
    state = fitter._start(jnp.int32(0), (8, 8, 1))
    logits, _ = module.apply({"params": state.params}, images)
    order = np.argsort(-np.asarray(logits), -1)
    expected = np.mean([labels[i] in order[i, :5] for i in range(40)])
    top1, top5 = fitter.test(state, Split(images, labels))
    np.testing.assert_allclose(top5, expected, atol=1e-6)
    np.testing.assert_allclose(top1, np.mean(order[:, 0] == labels), atol=1e-6)
    # ReLU swallows NaN pixels on some devices; diverged weights reach the logits everywhere.
    diverged = state._replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
    assert fitter.test(diverged, Split(images, labels)) == (0.0, 0.0)


def test_an_epoch_shows_every_image_once(monkeypatch):
    """What the steps draw: n / b batches without repetition, then another order."""
    seen = []

    def spy(key, images, settings):
        jax.debug.callback(lambda x: seen.append(np.array(x[:, 0, 0, 0])), images)
        return images

    monkeypatch.setattr("frepo_scale.evaluate.fit.augment", spy)
    images = np.arange(24, dtype=np.float32)[:, None, None, None] * np.ones((1, 8, 8, 1), "f")
    fitter = Fitter(MODULE, config(steps=6), 24, 0)
    data = DistilledSet(jnp.asarray(images), jnp.zeros((24, 3)))
    jax.block_until_ready(fitter.fit(data, 0, Preemption(), lambda n: None))
    jax.effects_barrier()
    first, second = (np.concatenate(seen[i : i + 3]) for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first.tolist() != second.tolist()
    assert first.tolist() != sorted(first)


def test_nothing_is_fetched_on_the_way(monkeypatch):
    images, labels = blobs(24)
    fitter = Fitter(MODULE, config(steps=50), 24, 0)
    data = DistilledSet(jnp.asarray(images), jnp.asarray(centred(labels)))
    fetched = []
    kind = type(jnp.zeros(()))
    original = kind._value.fget
    monkeypatch.setattr(
        kind, "_value", property(lambda self: fetched.append(self.shape) or original(self))
    )
    assert float(jnp.float32(2)) == 2 and fetched  # the spy detects a fetch
    fetched.clear()
    fitter.fit(data, 0, Preemption(), lambda n: None)
    assert fetched == []


def test_another_rate_is_not_compiled_again_and_is_used():
    images, labels = blobs(24)
    data = DistilledSet(jnp.asarray(images), jnp.asarray(centred(labels)))
    fitter = Fitter(MODULE, config(steps=5, constant=False), 24, 0)
    slow = fitter.fit(data, 0, Preemption(), lambda n: None)
    other = fitter.at_rate(3e-2)
    fast = other.fit(data, 0, Preemption(), lambda n: None)
    assert fitter._step._cache_size() == other._step._cache_size() == 1
    fresh = Fitter(MODULE, config(steps=5, constant=False, learning_rate=3e-2), 24, 0)
    again = fresh.fit(data, 0, Preemption(), lambda n: None)
    kernels = [np.asarray(state.params["head"]["kernel"]) for state in (slow, fast, again)]
    np.testing.assert_array_equal(kernels[1], kernels[2])
    assert not np.array_equal(kernels[0], kernels[1])


def test_a_stop_is_noticed():
    class Asked(Preemption):
        @property
        def requested(self):
            return True

    with pytest.raises(Preempted):
        fit(config(), preemption=Asked())


def learning_rates(fit_config):
    """The rates Adam is given: for a constant gradient its update is the rate."""
    optimiser = fit_config.optimiser(fit_config.learning_rate)
    params = jnp.zeros(())
    state = optimiser.init(params)
    rates = []
    for _ in range(fit_config.steps):
        updates, state = optimiser.update(jnp.ones(()), state, params)
        params = optax.apply_updates(params, updates)
        rates.append(-float(updates))
    return np.array(rates)


def test_schedules():
    constant = learning_rates(config(steps=20))
    np.testing.assert_allclose(constant, 1e-2, rtol=1e-3)
    final = learning_rates(config(steps=100, constant=False))
    np.testing.assert_allclose(final[0], 0, atol=1e-9)
    np.testing.assert_allclose(final[25], 5e-3, rtol=1e-3)  # half-way through the warm-up of 50
    assert final.argmax() == 50
    np.testing.assert_allclose(final[50], 1e-2, rtol=1e-3)
    middle = 1e-4 + (1e-2 - 1e-4) / 2
    np.testing.assert_allclose(final[75], middle, rtol=1e-2)
    assert final[-1] < 1.3e-4
