"""Steps by size, scores over several nets, probes and baselines."""

import json
from itertools import pairwise

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Split
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.baselines import RealData, final_scores
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import Fitter
from frepo_scale.evaluate.protocol import (
    STEPS_BY_SIZE,
    EvaluationConfig,
    Evaluator,
    is_guessing,
    score,
    steps_by_size,
)
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.preemption import Preemption

NONE = FinishedNets(None, {}, "")


def test_steps_by_size():
    papers = {10: 1000, 100: 2000, 200: 20000, 400: 5000, 500: 5000, 1000: 10000, 2000: 40000}
    assert {size: steps_by_size(size) for size in papers} == papers
    assert (steps_by_size(1), steps_by_size(10**6)) == (1000, 40000)
    assert 1000 < steps_by_size(30) < 2000
    for (low, _), (high, _) in pairwise(STEPS_BY_SIZE):
        between = steps_by_size((low + high) // 2)
        ends = steps_by_size(low), steps_by_size(high)
        assert min(ends) <= between <= max(ends)


def test_steps_can_be_set():
    assert EvaluationConfig(steps=7).steps_for(100) == 7
    assert EvaluationConfig().steps_for(100) == 2000


def test_score_by_hand():
    found = score([(0.5, 0.9), (0.7, 1.0)], num_classes=10)
    np.testing.assert_allclose((found.mean, found.std, found.n), (0.6, 0.1, 2))
    assert found.as_dict().keys() == {"mean", "std", "n"}
    many = score([(0.5, 0.9), (0.7, 1.0)], num_classes=100).as_dict()
    np.testing.assert_allclose((many["top5_mean"], many["top5_std"]), (0.95, 0.05))


def blobs(n, seed):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int32)
    images = 0.5 * rng.normal(size=(n, 8, 8, 1)).astype(np.float32)
    images[labels == 1, :4] += 1
    return Split(images, labels)


@pytest.fixture(scope="module")
def evaluator():
    config = EvaluationConfig(
        nets=2, steps=30, probe_nets=3, probe_steps=20, learning_rate=1e-2, full_data=True
    )
    module = ConvNet(num_classes=2, width=2, depth=1, norm="none")
    return config, Evaluator(module, config, AugmentConfig(flip=False), 0, Preemption())


def test_final_scores_have_every_baseline(evaluator):
    config, judge = evaluator
    train = blobs(40, 0)
    labels = np.repeat(np.eye(2, dtype=np.float32) - 0.5, 2, axis=0)
    clean = np.zeros((4, 8, 8, 1), np.float32)
    clean[2:, :4] = 1
    sets = {"distilled": DistilledSet(clean, labels), "distilled_last": DistilledSet(clean, labels)}
    scores = final_scores(judge, config, RealData(train, blobs(60, 1), 2), sets, 2, 0, NONE)
    assert scores.keys() == {
        "distilled",
        "distilled_last",
        "distilled_hard",
        "random_real",
        "full_data",
    }
    assert all(s["n"] == 2 for s in scores.values())
    assert scores["distilled"] == scores["distilled_last"]  # same set, same nets, same numbers
    assert scores["full_data"]["mean"] > 0.9
    # The hard labels here are the labels up to their scale.
    assert scores["distilled_hard"]["mean"] > 0.6


def test_wrong_labels_score_badly(evaluator):
    """The number depends on what is judged."""
    _, judge = evaluator
    train = blobs(20, 0)
    good = np.eye(2, dtype=np.float32)[train.labels] - 0.5
    test = blobs(60, 1)
    right = judge.final("x", lambda net: DistilledSet(train.images, good), test, 2, 30, NONE)
    wrong = judge.final("x", lambda net: DistilledSet(train.images, -good), test, 2, 30, NONE)
    assert right.mean > 0.9
    assert wrong.mean < 0.1


def test_probe_uses_its_own_nets_and_steps(evaluator):
    _, judge = evaluator
    train = blobs(20, 0)
    labels = np.eye(2, dtype=np.float32)[train.labels] - 0.5
    found = judge.probe(DistilledSet(train.images, labels), blobs(30, 2), 2)
    assert found.n == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"nets": 0},
        {"steps": -1},
        {"probe_nets": 0},
        {"probe_steps": 0},
        {"learning_rate": 0},
        {"full_data": "yes"},
        {"batch": 0},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        EvaluationConfig(**wrong)


def test_nets_that_are_done_are_not_trained_again(evaluator, tmp_path, monkeypatch):
    config, judge = evaluator
    train, test = blobs(40, 0), blobs(60, 1)
    labels = np.repeat(np.eye(2, dtype=np.float32) - 0.5, 2, axis=0)
    sets = {"distilled": DistilledSet(train.images[:4], labels)}

    def scores(settings="a"):
        finished = FinishedNets(tmp_path / "nets.json", sets, settings)
        return final_scores(judge, config, RealData(train, test, 2), sets, 2, 0, finished)

    trained = []
    fit = Fitter.fit
    monkeypatch.setattr(Fitter, "fit", lambda *args: trained.append(args[2]) or fit(*args))
    first = scores()
    assert len(trained) == 8  # two nets of four sets
    trained.clear()
    assert scores() == first and not trained
    content = json.loads((tmp_path / "nets.json").read_text())
    del content["nets"]["random real/1"]  # killed while this one was trained
    (tmp_path / "nets.json").write_text(json.dumps(content))
    assert scores() == first and trained == [1]
    trained.clear()
    (tmp_path / "nets.json").write_text("{torn")
    assert scores() == first and len(trained) == 8
    trained.clear()
    assert scores("other settings") == first and len(trained) == 8


@pytest.mark.parametrize(
    ("accuracy", "classes", "images", "expected"),
    [
        (0.10, 10, 1000, True),
        (0.128, 10, 1000, True),  # 0.1 + 3 sqrt(0.09 / 1000) = 0.1285
        (0.130, 10, 1000, False),
        (0.50, 2, 1000, True),
        (
            0.80,
            2,
            20,
            False,
        ),  # too few to tell
        (0.50, 2, 8, False),
        (0.001, 1000, 10_000, True),
        (0.003, 1000, 10_000, False),
    ],
)
def test_what_guessing_would_give(accuracy, classes, images, expected):
    assert is_guessing(accuracy, classes, images) is expected
