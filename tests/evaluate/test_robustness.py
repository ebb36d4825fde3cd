"""Attacks in pixel units through normalisation and whitening, noise, blur."""

import types
from dataclasses import replace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Split
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing
from frepo_scale.evaluate.attacks import (
    attacked,
    blurred,
    constants_of,
    correct,
    noisy,
    pixels_of,
)
from frepo_scale.evaluate.evaluation import RealData, Task
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import Fitter
from frepo_scale.evaluate.protocol import EvaluationConfig
from frepo_scale.evaluate.robustness import CONDITIONS, Robustness
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.models.registry import NetConfig

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 4, 4, 3), np.uint8)
# Neighbours alike, so that whitening mixes pixels.
PIXELS[:, :, 1:] = (0.8 * PIXELS[:, :, :-1] + 0.2 * PIXELS[:, :, 1:]).astype(np.uint8)


class Linear(nn.Module):
    """Three logits, linear in the net inputs."""

    @nn.compact
    def __call__(self, x, train=False):
        x = x.reshape(len(x), -1)
        return nn.Dense(3, use_bias=False, name="head")(x), x


WEIGHTS = RNG.normal(size=(48, 3)).astype(np.float32)
NET = types.SimpleNamespace(
    module=Linear(), variables={"params": {"head": {"kernel": jnp.asarray(WEIGHTS)}}}
)


@pytest.mark.parametrize("whiten", [False, True])
def test_the_pixels_of_net_inputs_are_the_original_ones(whiten):
    preprocessing = fit_preprocessing(PIXELS, whiten)
    found = pixels_of(preprocessing.apply(PIXELS), preprocessing)
    np.testing.assert_array_equal(found, PIXELS.astype(np.float32) / 255)


@pytest.mark.parametrize("whiten", [False, True])
def test_fgsm_of_a_linear_net_by_hand(whiten):
    """Each pixel moves by the bound along the sign of the gradient in pixels, then is clipped."""
    preprocessing = fit_preprocessing(PIXELS, whiten)
    pixels = PIXELS.astype(np.float32) / 255
    logits = preprocessing.apply(PIXELS).reshape(40, 48).astype(np.float64) @ WEIGHTS
    labels = np.argsort(logits, -1)[:, 1].astype(np.int32)
    other = np.argmax(logits, -1)
    matrix = np.eye(48) if preprocessing.whitening is None else preprocessing.whitening.matrix
    scale = np.tile(preprocessing.channel_std, 16)
    gradient = (matrix.astype(np.float64) @ (WEIGHTS[:, other] - WEIGHTS[:, labels])).T / scale
    sign = np.sign(gradient).reshape(pixels.shape)
    bound = 8 / 255
    found = attacked(NET, constants_of(preprocessing), pixels, labels, bound)
    clear = np.abs(gradient).reshape(pixels.shape) > 1e-4
    expected = np.clip(pixels + bound * sign, 0, 1)
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-6)
    assert clear.mean() > 0.99
    if whiten:  # the case tells the two gradients apart
        plain = np.sign(WEIGHTS[:, other] - WEIGHTS[:, labels]).T.reshape(pixels.shape)
        assert np.mean(plain == sign) < 0.9


def test_pgd_stays_within_the_bound_and_reaches_the_corner_of_a_linear_net():
    preprocessing = fit_preprocessing(PIXELS, True)
    constants = constants_of(preprocessing)
    pixels, bound = PIXELS.astype(np.float32) / 255, 8 / 255
    labels = np.zeros(40, np.int32)
    start = RNG.uniform(-1, 1, pixels.shape).astype(np.float32)
    found = attacked(NET, constants, pixels, labels, bound, start)
    assert np.abs(found - pixels).max() <= bound + 1e-6
    assert found.min() >= 0 and found.max() <= 1
    logits = preprocessing.apply(PIXELS).reshape(40, 48) @ WEIGHTS
    # Where no other class overtakes on the way the gradient is constant.
    margin = np.sort(logits[:, 1:], -1)
    steady = margin[:, 1] - margin[:, 0] > 3
    once = attacked(NET, constants, pixels, labels, bound)
    assert steady.sum() > 3
    np.testing.assert_allclose(found[steady], once[steady], atol=1e-5)
    for changed in (found, once):
        assert correct(NET, constants, changed, labels).mean() < np.mean(np.argmax(logits, -1) == 0)


def test_correct_counts_each_image_in_batches(monkeypatch):
    monkeypatch.setattr("frepo_scale.evaluate.attacks._AT_ONCE", 16)
    preprocessing = fit_preprocessing(PIXELS, True)
    labels = RNG.integers(0, 3, 40).astype(np.int32)
    logits = preprocessing.apply(PIXELS).reshape(40, 48) @ WEIGHTS
    found = correct(NET, constants_of(preprocessing), PIXELS.astype(np.float32) / 255, labels)
    np.testing.assert_array_equal(found, np.argmax(logits, -1) == labels)
    nan = types.SimpleNamespace(
        module=NET.module, variables={"params": {"head": {"kernel": WEIGHTS * np.nan}}}
    )
    wrong = correct(nan, constants_of(preprocessing), PIXELS / np.float32(255), np.zeros(40, int))
    assert not wrong.any()


def test_noise_and_blur():
    grey = np.full((30, 16, 16, 3), 0.5, np.float32)
    noise = RNG.standard_normal(grey.shape, np.float32)
    np.testing.assert_allclose((noisy(grey, noise, 0.04) - grey).std(), 0.04, rtol=0.05)
    assert noisy(grey, noise, 1.0).min() == 0 and noisy(grey, noise, 1.0).max() == 1
    np.testing.assert_allclose(blurred(grey, 1.0), grey, atol=1e-6)
    point = np.zeros((2, 9, 9, 3), np.float32)
    point[0, 4, 4, 1] = 1
    found = blurred(point, 1.0)
    assert not found[1].any() and not found[0, :, :, [0, 2]].any()
    np.testing.assert_allclose(found[0, 4, 4, 1], 1 / (2 * np.pi), rtol=0.02)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)


def bright(n, seed):
    """Two classes of uint8 images: the upper half of the second is brighter."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int32)
    pixels = rng.normal(110, 20, (n, 8, 8, 1))
    pixels[labels == 1, :4] += 40
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


@pytest.fixture
def images(context):
    """A context of real pixels, and their preprocessing."""
    train, test = bright(40, 0), bright(60, 1)
    preprocessing = Preprocessing(np.float32([0.5]), np.float32([0.2]), None)
    real = RealData(
        Split(preprocessing.apply(train[0]), train[1]),
        Split(preprocessing.apply(test[0]), test[1]),
        2,
    )
    labels = np.repeat(np.eye(2, dtype=np.float32) - 0.5, 2, axis=0)
    order = np.argsort(train[1], kind="stable")
    chosen = real.train.images[order[[0, 1, 20, 21]]]
    config = replace(context().config, robustness_images=50)
    return context(
        real=real,
        sets={"distilled": DistilledSet(chosen, labels)},
        preprocessing=preprocessing,
        config=config,
    )


def test_rows_for_each_set_and_condition(images):
    rows = {row.key: row for row in Robustness().run(images)}
    sets = ["distilled", "random_real", "full_data"]
    assert list(rows) == [f"{key} {condition}" for key in sets for condition in CONDITIONS]
    for key in sets:
        mean = {condition: rows[f"{key} {condition}"].score.mean for condition in CONDITIONS}
        fgsm = [mean[f"FGSM {bound}/255"] for bound in (2, 8)]
        assert mean["clean"] >= fgsm[0] >= fgsm[1] >= mean["PGD-10 8/255"] - 0.05
        assert fgsm[1] < mean["clean"]
    row = rows["full_data clean"]
    assert row.score.mean > 0.9 and row.score.n == 2
    assert (row.facts["row"], row.facts["column"]) == ("clean", "full training set")
    assert row.facts["test_images"] == 50


def test_it_resumes_where_it_was_stopped(images, tmp_path, monkeypatch):
    config = replace(images.config, steps=4)
    trained, fit, most = [], Fitter.fit, [99]

    def stopping(self, data, net, *more):
        if len(trained) == most[0]:
            raise Preempted
        trained.append((net, len(data.images)))
        return fit(self, data, net, *more)

    def accuracies(path):
        trained.clear()
        finished = FinishedNets(path, images.sets, "a")
        given = replace(images, config=config, finished=finished, _used=set())
        return evaluate_sets({"robustness": Robustness()}, given)

    monkeypatch.setattr(Fitter, "fit", stopping)
    whole = accuracies(None)
    assert trained == [(0, 4), (1, 4), (0, 4), (1, 4), (0, 40), (1, 40)]
    most[0] = 3
    with pytest.raises(Preempted):
        accuracies(tmp_path / "nets.json")
    most[0] = 99
    assert accuracies(tmp_path / "nets.json") == whole
    assert trained == [(1, 4), (0, 40), (1, 40)]
    assert accuracies(tmp_path / "nets.json") == whole and not trained


def test_full_data_needs_images_in_memory():
    task = Task(
        EvaluationConfig(full_data=True), NetConfig(), (8, 8, 1), 10, held_out=0, in_memory=True
    )
    Robustness().check(task)
    Robustness().check(replace(task, config=EvaluationConfig(), in_memory=False))
    with pytest.raises(InputError) as caught:
        Robustness().check(replace(task, in_memory=False))
    assert "FULL_DATA" in caught.value.what
