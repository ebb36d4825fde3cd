"""LRS and ARS against values computed by hand, and the accuracies they are made of."""

import types
from dataclasses import replace

import jax
import numpy as np
import pytest

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import augment
from frepo_scale.evaluate.accuracy import Accuracy
from frepo_scale.evaluate.baselines import with_hard_labels
from frepo_scale.evaluate.evaluation import Task
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import Fitter
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.evaluate.scores import (
    NO_AUGMENTATION,
    Accuracies,
    Scores,
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from frepo_scale.models.registry import NetConfig

FOUND = Accuracies(
    real_hard=0.8, set_hard=0.5, set=0.6, random=0.4, set_plain=0.55, random_plain=0.45
)


def test_scores_by_hand():
    np.testing.assert_allclose(hard_label_recovery(FOUND), 0.3)
    np.testing.assert_allclose(improvement_over_random(FOUND), 0.2)
    # a = (0.2 - 0.3) / 2 = -0.05; (e^-0.05 - e^-1) / (e - e^-1) = 0.5833500 / 2.3504024
    np.testing.assert_allclose(label_robust_score(FOUND), 0.2481915, atol=1e-7)
    # a = (0.2 + 0.1) / 2 = 0.15; (1.1618342 - 0.3678794) / 2.3504024
    np.testing.assert_allclose(augmentation_robust_score(FOUND), 0.3377953, atol=1e-7)


def test_the_scores_reach_from_0_to_1():
    best = Accuracies(0.0, 1.0, 1.0, 0.0, 1.0, 0.0)
    worst = Accuracies(1.0, 0.0, 0.0, 1.0, 0.0, 1.0)
    for score in (label_robust_score, augmentation_robust_score):
        np.testing.assert_allclose([score(best), score(worst)], [1, 0], atol=1e-12)


def test_no_augmentation_changes_nothing():
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    for seed in range(8):
        found = augment(jax.random.key(seed), images, NO_AUGMENTATION)
        np.testing.assert_allclose(found, images, atol=1e-6)


VALUES = {
    "full_data": (0.7, 0.9),
    "distilled_hard": (0.4, 0.6),
    "distilled": (0.5, 0.7),
    "random_real": (0.4, 0.4),
    "random_soft": (0.45, 0.55),
    "set_plain": (0.5, 0.6),
    "random_plain": (0.45, 0.45),
}


@pytest.fixture
def asked(monkeypatch):
    """Gives `VALUES`; records the requests."""
    calls = {}

    def measure(self, name, fit, nets, labelled, test, finished, at=()):
        key = name.rpartition("/")[2]
        calls[key] = types.SimpleNamespace(fit=fit, labelled=labelled)
        if key.startswith("temperature"):
            return [(0.9 if "0.2 " in key else 0.1, 1.0)]
        return [(value, 1.0) for value in VALUES[key]]

    monkeypatch.setattr(Evaluator, "measure", measure)
    return calls


def test_rows_hold_the_scores_of_the_means_and_every_accuracy(context, asked):
    rows = {row.key: row for row in Scores().run(context())}
    means = {key: np.mean(values) for key, values in VALUES.items()}
    expected = Accuracies(
        *(means[key] for key in ("full_data", "distilled_hard", "distilled", "random_real")),
        *(means[key] for key in ("set_plain", "random_plain")),
    )
    assert list(rows) == ["lrs", "ars", "hlr", "ior", *Accuracies._fields]
    np.testing.assert_allclose(rows["lrs"].score.mean, label_robust_score(expected))
    np.testing.assert_allclose(rows["ars"].score.mean, augmentation_robust_score(expected))
    assert [row.facts.get("unit", "%") for row in rows.values()] == ["", "", *["%"] * 8]
    np.testing.assert_allclose(rows["hlr"].score.mean, 0.8 - 0.5)
    np.testing.assert_allclose(rows["ior"].score.std, np.std([0.1, 0.3]))
    for key, value in expected._asdict().items():
        np.testing.assert_allclose(rows[key].score.mean, value)
    assert asked["set_plain"].fit.augment == asked["random_plain"].fit.augment == NO_AUGMENTATION
    assert asked["distilled"].fit.augment != NO_AUGMENTATION
    assert "random_soft" not in asked and "soft" not in rows["random"].label


def test_random_images_get_soft_labels_where_the_set_has_them(context, asked):
    given = context()
    soft = given.distilled.labels * np.linspace(0.5, 1, 4, dtype=np.float32)[:, None]
    learned = DistilledSet(given.distilled.images, soft)
    given = replace(given, sets={"distilled": learned})
    rows = {row.key: row for row in Scores().run(given)}
    np.testing.assert_allclose(rows["random"].score.mean, 0.5)
    assert "soft labels" in rows["random"].label and "random_real" not in asked


def test_hard_labels_have_one_row_where_the_set_has_them(context, asked):
    given = context()
    given = replace(given, sets={"distilled": with_hard_labels(given)})
    rows = {row.key: row for row in Scores().run(given)}
    assert "set_hard" not in rows and "distilled_hard" not in asked
    assert rows["set"].label == "b = c: accuracy, distilled set, hard labels"
    np.testing.assert_allclose(rows["hlr"].score.mean, 0.8 - 0.6)
    np.testing.assert_allclose(rows["ior"].score.mean, 0.6 - 0.4)


def test_they_resume_where_they_were_stopped(context, tmp_path, monkeypatch):
    """Killed between two nets that a teacher labels: its labels are the same afterwards."""
    given = context()
    soft = given.distilled.labels * np.linspace(0.5, 1, 4, dtype=np.float32)[:, None]
    sets = {"distilled": DistilledSet(given.distilled.images, soft)}
    trained, fit, most = [], Fitter.fit, [99]

    def stopping(self, data, net, *more):
        if len(trained) == most[0]:
            raise Preempted
        trained.append(net)
        return fit(self, data, net, *more)

    def scores(path):
        trained.clear()
        finished, config = FinishedNets(path, sets, "a"), replace(given.config, steps=4)
        return evaluate_sets(
            {"scores": Scores()}, context(sets=sets, finished=finished, config=config)
        )

    monkeypatch.setattr(Fitter, "fit", stopping)
    whole = scores(None)
    assert trained[:8] == [2, 0, 0, 0, 0, 0, 0, 1] and len(trained) == 18
    most[0] = 7
    with pytest.raises(Preempted):
        scores(tmp_path / "nets.json")
    most[0] = 99
    assert scores(tmp_path / "nets.json") == whole
    assert trained[:2] == [2, 1] and len(trained) == 18 - 7 + 1  # the teacher once more
    assert scores(tmp_path / "nets.json") == whole and not trained


def test_nets_that_accuracy_has_trained_are_not_trained_again(context, monkeypatch):
    trained, fit = [], Fitter.fit
    monkeypatch.setattr(Fitter, "fit", lambda *args: trained.append(args[2]) or fit(*args))
    config = replace(context().config, steps=4)
    both = {"accuracy": Accuracy(), "scores": Scores()}
    found = evaluate_sets(both, context(config=config))
    assert len(trained) == 2 * (4 + 2)  # two nets of four sets; two sets without augmentation
    rows = {row["key"]: row for row in found["evaluations"][1]["rows"]}
    assert rows["set"]["mean"] == found["distilled"]["mean"]
    assert rows["real_hard"]["mean"] == found["full_data"]["mean"]


@pytest.mark.parametrize(("held_out", "in_memory"), [(0, True), (9, False)])
def test_what_they_need_is_checked_before_the_run(held_out, in_memory):
    task = Task(EvaluationConfig(), NetConfig(), (8, 8, 1), 10, 9, in_memory=True)
    Scores().check(task)
    with pytest.raises(InputError) as caught:
        Scores().check(replace(task, held_out=held_out, in_memory=in_memory))
    assert "scores" in caught.value.what and "EVALUATIONS" in caught.value.fix
