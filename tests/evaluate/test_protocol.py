"""Settings, steps by size, scores over several nets, accuracy of guessing."""

from itertools import pairwise

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.evaluate.protocol import (
    STEPS_BY_SIZE,
    EvaluationConfig,
    is_guessing,
    score,
    steps_by_size,
)


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
        {"evaluations": []},
        {"evaluations": ["accurate"]},
        {"evaluations": [3]},
        {"evaluations": ["accuracy", "accuracy"]},
        {"evaluations": "accuracy"},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        EvaluationConfig(**wrong)


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
def test_accuracy_of_guessing(accuracy, classes, images, expected):
    assert is_guessing(accuracy, classes, images) is expected


def test_evaluations_are_kept_as_json_reads_them_back():
    """The settings of a workdir are compared with those stored in it as JSON."""
    assert EvaluationConfig().evaluations == ["accuracy"]
    own = EvaluationConfig(evaluations=("accuracy", "my.Own")).evaluations
    assert own == ["accuracy", "my.Own"]
    assert isinstance(own, list)


def test_an_unknown_evaluation_is_named_with_the_nearest():
    with pytest.raises(InputError) as caught:
        EvaluationConfig(evaluations=["acuracy"])
    assert "'acuracy'" in caught.value.what
    assert "accuracy" in caught.value.fix
