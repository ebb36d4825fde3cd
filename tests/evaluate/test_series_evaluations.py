"""`continual` and `membership` on made-up sets, and measurements during a training."""

from dataclasses import replace

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Split, everything
from frepo_scale.evaluate.baselines import with_hard_labels
from frepo_scale.evaluate.continual import Continual
from frepo_scale.evaluate.evaluation import Part, RealData, Task
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import Fitter
from frepo_scale.evaluate.membership import UPDATES, Membership, _updates, outputs_of
from frepo_scale.evaluate.membership_attacks import ATTACKS
from frepo_scale.evaluate.protocol import EvaluationConfig
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.models.registry import NetConfig


def class_parts(given):
    """The distilled set of the fixture as a series: class 1, then class 0."""
    images, labels = given.distilled
    return tuple(
        Part(
            f"part_{step:02d}",
            np.array([label]),
            DistilledSet(images[2 * label : 2 * label + 2], labels[2 * label : 2 * label + 2]),
            given.real,
        )
        for step, label in enumerate((1, 0))
    )


@pytest.fixture
def continual(context):
    given = context()
    return replace(given, parts=class_parts(given))


@pytest.fixture
def trained(monkeypatch):
    """(number of images, classes of the labels) of every set that a net was trained on."""
    sets, fit = [], Fitter.fit

    def spy(self, data, *args):
        sets.append((len(data.images), sorted(set(np.argmax(data.labels, axis=1).tolist()))))
        return fit(self, data, *args)

    monkeypatch.setattr(Fitter, "fit", spy)
    return sets


def test_continual_trains_on_the_steps_so_far(continual, trained):
    rows = list(Continual().run(continual))
    assert [(row.key, row.facts["row"], row.facts["x"]) for row in rows] == [
        ("distilled_0", "distilled sets", 1),
        ("distilled_1", "distilled sets", 2),
        ("random_real_0", "random real images", 1),
        ("random_real_1", "random real images", 2),
        ("full_data_0", "all training images", 1),
        ("full_data_1", "all training images", 2),
    ]
    expected = [(2, [1]), (4, [0, 1]), (2, [1]), (4, [0, 1]), (20, [1]), (40, [0, 1])]
    assert trained == [one for one in expected for _ in range(2)]  # two nets of each


def test_the_names_of_curves_say_what_is_not_as_usual(continual, monkeypatch):
    monkeypatch.setattr(type(continual), "measure", lambda *args, **kwargs: [(0.5, 0.5)])
    config = replace(continual.config, full_data_steps=70)
    hard = replace(continual, sets={"distilled": with_hard_labels(continual)}, config=config)
    assert list(dict.fromkeys(row.facts["row"] for row in Continual().run(hard))) == [
        "distilled sets, hard labels",
        "random real images",
        "all training images, 70 steps",
    ]


def test_continual_tests_on_the_classes_seen(continual, blobs):
    rows = {row.key: row.score for row in Continual().run(continual)}
    # Nets that know one class name it always: right on its images alone.
    assert rows["distilled_0"].mean == rows["random_real_0"].mean == 1.0
    assert rows["distilled_1"].mean > 0.6
    other = Split(blobs(60, 1).images, 1 - blobs(60, 1).labels)
    fresh = {"finished": FinishedNets(None, {}, ""), "_used": set()}
    swapped = replace(continual, real=replace(continual.real, test=other), **fresh)
    assert {row.key: row.score for row in Continual().run(swapped)}["distilled_1"].mean < 0.4


def test_a_nets_random_images_of_a_class_stay_the_same(continual, monkeypatch):
    seen = {}

    def fit(self, data, net, *args):
        seen.setdefault(net, []).append(np.asarray(data.images))
        return real_fit(self, data, net, *args)

    real_fit = Fitter.fit
    monkeypatch.setattr(Fitter, "fit", fit)
    config = replace(continual.config, full_data=False, steps=1)
    list(Continual().run(replace(continual, config=config)))
    for images in seen.values():  # distilled, distilled, random, random
        np.testing.assert_array_equal(images[2], images[3][:2])
    assert not np.array_equal(seen[0][2], seen[1][2])


TASK = Task(EvaluationConfig(), NetConfig(), (8, 8, 1), 2, 0, True)


@pytest.mark.parametrize(
    ("evaluation", "wanted"), [(Continual(), "classes"), (Membership(), "chunks")]
)
def test_they_judge_a_series_only(evaluation, wanted):
    for series in (None, "classes", "chunks"):
        if series != wanted:
            with pytest.raises(InputError) as error:
                evaluation.check(replace(TASK, series=series))
            assert f"use --gin.SERIES={wanted}" in error.value.fix
    evaluation.check(replace(TASK, series=wanted))
    full = replace(TASK.config, full_data=True)
    with pytest.raises(InputError):
        evaluation.check(replace(TASK, series=wanted, in_memory=False, config=full))


@pytest.fixture
def membership(context, blobs):
    """Two chunks of ten images of their own."""
    given = context()
    parts = []
    for number in range(2):
        chunk = Split(*(array[number::2] for array in vars(blobs(40, 3)).values()))
        chunk = Split(chunk.images, (np.arange(20) % 2).astype(np.int32))
        real = RealData(chunk, given.real.test, 2)
        parts.append(Part(f"part_{number:02d}", np.arange(2), given.distilled, real))
    config = replace(given.config, steps=30, nets=2)
    return replace(given, parts=tuple(parts), config=config, real=parts[0].real)


@pytest.mark.slow
def test_membership_measures_both_arms(membership, trained, monkeypatch):
    monkeypatch.setattr("frepo_scale.evaluate.membership.UPDATES", (10, 20, 500))
    found = evaluate_sets({"membership": Membership()}, membership)
    (table,) = found["evaluations"]
    keys = [
        f"{arm}_{measure}_{number}"
        for arm in ("distilled", "real")
        for measure in ("accuracy", *ATTACKS)
        for number in (10, 20, 30)
    ]
    assert [row["key"] for row in table["rows"]] == keys
    assert all(row["n"] == 4 for row in table["rows"])  # two nets, two chunks
    assert [row["x"] for row in table["rows"]] == [10, 20, 30] * 12
    errors = [row["standard_error"] for row in table["rows"] if "standard_error" in row]
    assert len(errors) == 30 and all(0 < error < 0.2 for error in errors)
    # One training of a net serves all numbers of updates.
    assert trained == [(4, [0, 1])] * 4 + [(20, [0, 1])] * 4


def test_what_is_measured_on_the_way_is_what_shorter_trainings_give(context):
    given = context(finished=FinishedNets(None, {}, ""))

    def test(net):
        return net.accuracy(given.real.test)

    (whole, _) = given.measure("a", given.distilled, test, at=(3, 7), steps=7, constant=True)
    (short, _) = given.measure("b", given.distilled, test, steps=3, constant=True)
    (last, _) = given.measure("c", given.distilled, test, steps=7, constant=True)
    assert whole == (*short, *last)


@pytest.mark.slow
def test_members_that_were_learned_by_heart_are_found(context):
    """Noise with random labels: only nets that saw it have a small loss there."""
    rng = np.random.default_rng(0)

    def noise(n):
        return Split(
            rng.normal(size=(n, 8, 8, 1)).astype(np.float32), rng.integers(0, 2, n).astype(np.int32)
        )

    chunk, others = noise(16), noise(200)
    given = context()
    real = RealData(chunk, others, 2)
    labels = np.full((4, 2), 0, np.float32)
    blank = DistilledSet(np.zeros((4, 8, 8, 1), np.float32), labels)
    part = Part("part_00", np.arange(2), blank, real)
    config = replace(given.config, steps=400, nets=1, learning_rate=3e-2)
    given = replace(given, parts=(part,), config=config, real=real)
    net = given.train("one", blank, steps=2)
    assert outputs_of(net, others, 2).logits.shape == (200, 2)
    rows = {row.key: row.score for row in Membership().run(given)}
    assert rows["real_threshold_400"].mean > 0.7
    assert abs(rows["distilled_threshold_400"].mean - 0.5) < 0.2


def test_the_loss_of_an_attack_is_that_of_training(context):
    given = context()
    net = given.train("one", given.distilled, steps=2)
    rows = given.real.train
    found = outputs_of(net, rows, 2)
    logits = net.module.apply(net.variables, everything(rows), train=False)[0]
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    targets = (np.eye(2)[rows.labels] - 0.5) / np.sqrt(0.2)
    np.testing.assert_allclose(found.loss, 0.5 * ((found.logits - targets) ** 2).sum(1), rtol=1e-5)


def test_updates_end_with_the_steps_of_the_recipe():
    assert _updates(0) == UPDATES
    assert _updates(300) == (100, 250, 300)
    assert _updates(250) == (100, 250)
