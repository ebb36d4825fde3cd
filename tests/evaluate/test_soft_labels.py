"""Random real images with soft labels of a teacher."""

from dataclasses import replace

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.accuracy import Accuracy
from frepo_scale.evaluate.baselines import random_real_images
from frepo_scale.evaluate.evaluation import Task
from frepo_scale.evaluate.fit import Fitter
from frepo_scale.evaluate.protocol import EvaluationConfig
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.evaluate.scores import Scores
from frepo_scale.evaluate.soft_labels import (
    TEMPERATURES,
    SoftRandom,
    has_soft_labels,
    soft_labels,
)
from frepo_scale.models.registry import NetConfig


def test_soft_labels_by_hand():
    outputs = np.log(np.array([[1.0, 2.0, 5.0], [4.0, 2.0, 2.0]])) / np.sqrt(0.3)
    found = soft_labels(outputs, 1.0)
    expected = (np.array([[1, 2, 5], [4, 2, 2]]) / 8 - 1 / 3) / np.sqrt(0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_a_low_temperature_gives_the_hard_labels():
    outputs = scaled_labels(np.array([3, 0, 7]), 20)
    np.testing.assert_allclose(soft_labels(outputs, 0.01), outputs, atol=1e-6)
    spread = [np.ptp(soft_labels(outputs, t)) for t in TEMPERATURES]
    assert spread == sorted(spread, reverse=True)


def test_which_labels_are_soft():
    hard = scaled_labels(np.array([0, 1, 1, 2]), 3)
    assert not has_soft_labels(hard)
    assert not has_soft_labels(hard[:, :2][[0, 1]])
    assert has_soft_labels(hard * np.array([[1], [1], [0.5], [1]]))
    changed = hard.copy()
    changed[0, 1] += 0.01
    assert has_soft_labels(changed)


@pytest.fixture
def learned(context):
    """A context of a set with soft labels."""

    def make(path=None):
        given = context(
            path, config=replace(context().config, soft_random=True, steps=20, full_data_steps=30)
        )
        soft = given.distilled.labels * np.linspace(0.5, 1, 4, dtype=np.float32)[:, None]
        return replace(given, sets={"distilled": DistilledSet(given.distilled.images, soft)})

    return make


@pytest.fixture
def trained(monkeypatch):
    """Number of the net, number of images and learning steps of each training."""
    calls, fit = [], Fitter.fit

    def noted(self, data, net, *more):
        calls.append((net, len(data.images), self._config.steps))
        return fit(self, data, net, *more)

    monkeypatch.setattr(Fitter, "fit", noted)
    return calls


def test_images_are_the_random_ones_and_labels_the_teachers(learned):
    given = learned()
    soft = SoftRandom(given)
    for net in range(2):
        images, labels = soft.with_temperature(0.1)(net)
        np.testing.assert_array_equal(images, random_real_images(given, net).images)
        assert labels.shape == (4, 2)
        np.testing.assert_allclose(labels.sum(-1), 0, atol=1e-6)
        # The teacher has learned these two classes.
        assert np.argmax(labels, -1).tolist() == [0, 0, 1, 1]


def test_accuracy_has_the_row_and_the_temperature(learned, trained, tmp_path):
    first = evaluate_sets({"accuracy": Accuracy()}, learned(tmp_path / "nets.json"))
    row = next(r for r in first["evaluations"][0]["rows"] if r["key"] == "random_soft")
    assert row["temperature"] in TEMPERATURES and row["n"] == 2
    # The teacher has a number of its own, all training images and FULL_DATA_STEPS.
    assert trained.count((2, 40, 30)) == 1
    assert trained.count((0, 4, 20)) == 3 + len(TEMPERATURES) + 1
    trained.clear()
    assert evaluate_sets({"accuracy": Accuracy()}, learned(tmp_path / "nets.json")) == first
    assert not trained


def test_evaluations_have_one_teacher(learned, trained):
    evaluate_sets({"accuracy": Accuracy(), "scores": Scores()}, learned())
    assert trained.count((2, 40, 30)) == 1


def test_sets_with_hard_labels_have_no_such_row(context):
    given = context(config=replace(context().config, soft_random=True, full_data=False, steps=2))
    assert [row.key for row in Accuracy().run(given)] == [
        "distilled",
        "distilled_hard",
        "random_real",
    ]


@pytest.mark.parametrize(("held_out", "in_memory"), [(0, True), (9, False)])
def test_what_it_needs_is_checked_before_the_run(held_out, in_memory):
    config = EvaluationConfig(soft_random=True)
    task = Task(config, NetConfig(), (8, 8, 1), 10, 9, in_memory=True)
    Accuracy().check(task)
    with pytest.raises(InputError) as caught:
        Accuracy().check(replace(task, held_out=held_out, in_memory=in_memory))
    assert "SOFT_RANDOM" in caught.value.what and "SOFT_RANDOM" in caught.value.fix
