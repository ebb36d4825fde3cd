"""The evaluation seam: the registry, the context, `accuracy`, and what is stored."""

import json
import sys
import types
from dataclasses import dataclass, replace

import numpy as np
import pytest

from frepo_scale.core.errors import InputError, RunError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.evaluate import cross_architecture, linear_probe, robustness
from frepo_scale.evaluate.accuracy import Accuracy
from frepo_scale.evaluate.baselines import with_hard_labels
from frepo_scale.evaluate.evaluation import Measurement, Task
from frepo_scale.evaluate.finished import FinishedNets
from frepo_scale.evaluate.fit import FINAL_DRAWS, PROBE_DRAWS, Fitter
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.evaluate.registry import EVALUATIONS, load_evaluations, version_of
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.models.convnet import ConvNet
from frepo_scale.models.registry import NetConfig
from frepo_scale.ops.preemption import Preemption

ACCURACY = {"accuracy": Accuracy()}
KEYS = ["distilled", "distilled_hard", "random_real", "full_data"]


@dataclass
class Halves:
    """Trains on one image per class: an evaluation of a test."""

    title: str = "half of the set"

    def run(self, context):
        half = DistilledSet(*(part[::2] for part in context.distilled))
        yield Measurement("half", "every other image", context.score("half", half))


class Untitled:
    def run(self, context):
        return []


class NeedsArguments(Halves):
    def __init__(self, what):
        raise AssertionError(what)


class Broken(Halves):
    def __init__(self):
        raise RuntimeError("no luck")


def a_function(context):
    return []


@pytest.fixture
def trained(monkeypatch):
    """The numbers of the nets that were trained."""
    numbers, fit = [], Fitter.fit
    monkeypatch.setattr(Fitter, "fit", lambda *args: numbers.append(args[2]) or fit(*args))
    return numbers


def test_accuracy_has_every_baseline(context):
    found = evaluate_sets(ACCURACY, context())
    (table,) = found["evaluations"]
    assert (table["name"], table["title"]) == ("accuracy", "test accuracy")
    assert [row["key"] for row in table["rows"]] == KEYS
    for row in table["rows"]:
        assert found[row["key"]] == {name: row[name] for name in ("mean", "std", "n")}
        assert row["n"] == 2
    assert found["full_data"]["mean"] > 0.9
    # The hard labels here are the labels up to their scale.
    assert found["distilled_hard"]["mean"] > 0.6


def test_a_set_with_hard_labels_is_measured_once(context, trained):
    given = context()
    hard = with_hard_labels(given)
    given = replace(given, sets={"distilled": hard})
    rows = {row.key: row.label for row in Accuracy().run(given)}
    assert list(rows) == ["distilled", "random_real", "full_data"]
    assert rows["distilled"] == "distilled set, hard labels" and len(trained) == 6


@pytest.mark.parametrize("module", [cross_architecture, linear_probe, robustness])
def test_every_evaluation_says_that_labels_are_hard_and_measures_them_once(context, module):
    given = context()
    hard = replace(given, sets={"distilled": with_hard_labels(given)})
    soft = {key: name for key, name, *_ in module._sets(given)}
    named = {key: name for key, name, *_ in module._sets(hard)}
    assert soft["distilled"] == "distilled set"
    assert named["distilled"] == "distilled set, hard labels"
    assert soft.keys() - named.keys() <= {"distilled_hard"} and "distilled_hard" not in named


def test_a_length_of_its_own_of_all_training_images_is_said(context, monkeypatch):
    given = context()
    monkeypatch.setattr(type(given), "measure", lambda *args, **kwargs: [(0.5, 0.5)])
    assert [row.label for row in Accuracy().run(given)][-1] == "full training set"
    config = replace(given.config, full_data_steps=1234)
    row = list(Accuracy().run(replace(given, config=config, _used=set())))[-1]
    assert (row.label, row.facts) == ("full training set, 1,234 steps", {"steps": 1234})


def test_full_data_is_a_setting(context):
    given = context(config=replace(context().config, full_data=False))
    assert [row.key for row in Accuracy().run(given)] == KEYS[:-1]


@pytest.mark.parametrize(
    ("selected_by", "step", "label"),
    [
        ("", None, "distilled set"),
        ("held-out", 10, "distilled set, best on held-out images"),
        (
            *("held-out", 0),
            "distilled set, best on held-out images, step 0 (initial images and labels)",
        ),
        ("last step", 10, "distilled set, last step"),
    ],
)
def test_the_label_says_how_the_set_was_selected(context, selected_by, step, label):
    first = next(iter(Accuracy().run(context(selected_by=selected_by, selected_step=step))))
    assert (first.key, first.label) == ("distilled", label)


def test_the_last_set_is_evaluated_once_where_it_is_the_selected_one(context, trained):
    given = context()
    same = replace(given, sets=given.sets | {"distilled_last": given.distilled})
    found = evaluate_sets(ACCURACY, same)
    assert found["distilled_last"] == found["distilled"]
    assert len(trained) == 8  # two nets of four sets
    other = DistilledSet(given.distilled.images, -given.distilled.labels)
    last = replace(context(), sets=given.sets | {"distilled_last": other})
    found = evaluate_sets(ACCURACY, last)
    assert found["distilled_last"]["mean"] < 0.5 < found["distilled"]["mean"]


def test_the_last_step_has_its_key_where_it_was_selected(context):
    found = evaluate_sets(ACCURACY, context(selected_by="last step"))
    assert found["distilled_last"] == found["distilled"]
    assert [row["key"] for row in found["evaluations"][0]["rows"]] == KEYS
    assert "distilled_last" not in evaluate_sets(ACCURACY, context())
    halves = evaluate_sets({"my.Halves": Halves()}, context(selected_by="last step"))
    assert halves.keys() == {"evaluations"}


def test_wrong_labels_score_badly(context, blobs):
    """The number depends on what is evaluated."""
    train = blobs(20, 0)
    good = np.eye(2, dtype=np.float32)[train.labels] - 0.5
    given = context()
    assert given.score("right", DistilledSet(train.images, good)).mean > 0.9
    assert given.score("wrong", DistilledSet(train.images, -good)).mean < 0.1


def test_a_probe_has_its_own_nets(context, blobs):
    given = context()
    assert given.evaluator.probe(given.distilled, blobs(30, 2), 2).n == 3


def test_nets_that_are_finished_are_not_trained_again(context, trained, tmp_path):
    path = tmp_path / "nets.json"

    def scores(settings="a"):
        trained.clear()
        return evaluate_sets(ACCURACY, context(path, settings))

    first = scores()
    assert len(trained) == 8  # two nets of four sets
    assert scores() == first and not trained
    content = json.loads(path.read_text())
    (key,) = (key for key in content["nets"] if key.endswith("/random_real/1"))
    del content["nets"][key]  # killed while this one was trained
    path.write_text(json.dumps(content))
    assert scores() == first and trained == [1]
    path.write_text("{torn")
    assert scores() == first and len(trained) == 8
    assert scores("other settings") == first and len(trained) == 8


def test_every_evaluation_resumes_and_keeps_what_another_one_stored(context, trained, tmp_path):
    path = tmp_path / "nets.json"
    first = evaluate_sets(ACCURACY, context(path))
    trained.clear()
    both = evaluate_sets(ACCURACY | {"my.Halves": Halves()}, context(path))
    assert len(trained) == 2  # of the new one
    assert [table["name"] for table in both["evaluations"]] == ["accuracy", "my.Halves"]
    assert both["evaluations"][0] == first["evaluations"][0]
    assert "half" not in both  # only `accuracy` has flat keys
    trained.clear()
    assert evaluate_sets({"my.Halves": Halves()}, context(path))["evaluations"][0]["rows"]
    assert not trained


def test_what_an_older_version_of_an_evaluation_stored_is_not_used(
    context, trained, tmp_path, monkeypatch
):
    path = tmp_path / "nets.json"
    evaluate_sets({"my.Halves": Halves()}, context(path))
    trained.clear()
    monkeypatch.setattr("frepo_scale.evaluate.run.version_of", lambda evaluation: "edited")
    evaluate_sets({"my.Halves": Halves()}, context(path))
    assert trained == [0, 1]


def test_every_process_gets_what_process_0_has_stored(context, monkeypatch):
    answers = iter([2, 0.25, 1.0, 0])
    monkeypatch.setattr("frepo_scale.evaluate.finished.agree", lambda value: next(answers))
    monkeypatch.setattr("frepo_scale.evaluate.finished.is_first", lambda: False)
    other = FinishedNets(None, context().sets, "a")
    assert other.get("distilled", 0) == (0.25, 1.0)
    assert other.get("distilled", 1) is None


def test_the_version_is_that_of_the_source_file():
    assert version_of(Halves()) == version_of(Untitled()) != version_of(Accuracy())
    assert len(version_of(Halves())) == 12
    assert version_of(type("Made", (), {"__module__": "builtins"})()) == ""


def test_a_measurement_may_be_anything_and_is_stored_too(context, trained, tmp_path):
    def looked_at(net):
        logits, features = net.module.apply(
            net.variables, np.zeros((3, 8, 8, 1), np.float32), train=False
        )
        return [logits.shape[0], features.shape[1], net.number]

    for _ in range(2):
        given = context(tmp_path / "nets.json")
        assert given.measure("shapes", given.distilled, looked_at) == [(3, 72, 0), (3, 72, 1)]
    assert trained == [0, 1]


def test_one_net_may_be_trained_and_used(context, trained):
    given = context()
    teacher = given.train("teacher", given.distilled, 5)
    assert trained == [5]
    assert teacher.accuracy(given.real.train)[0] > 0.9
    logits, _ = teacher.module.apply(teacher.variables, given.real.test.images, train=False)
    assert logits.shape == (60, 2)


def test_a_key_is_used_once_by_an_evaluation(context):
    given = context().named("x")
    given.score("a", given.distilled)
    with pytest.raises(RunError, match="x/a"):
        given.score("a", given.distilled)
    context().named("y").score("a", given.distilled)

    class Twice(Halves):
        def run(self, context):
            yield from 2 * list(super().run(context))

    with pytest.raises(RunError, match="'half'"):
        evaluate_sets({"my.Twice": Twice()}, context())


@pytest.fixture
def asked(monkeypatch):
    """Records the requests to the evaluator by name; nothing is trained."""
    calls = {}

    def measure(self, name, fit, nets, labelled, test, finished, at=()):
        tested = []
        net = types.SimpleNamespace(accuracy=lambda rows: tested.append(rows) or (0.5, 0.5))
        values = [tuple(test(net))] * nets
        calls[name] = types.SimpleNamespace(module=self._module, fit=fit, rows=tested[0], nets=nets)
        return values

    monkeypatch.setattr(Evaluator, "measure", measure)
    return calls


def test_choices_see_other_images_and_other_draws_than_the_final_score(context, asked):
    given = context()
    given.score("final", given.distilled)
    given.score("choice", given.distilled, held_out=True)
    given.evaluator.probe(given.distilled, given.real.held_out, 2)
    assert asked["final"].rows is given.real.test
    assert asked["choice"].rows is given.real.held_out
    draws = [asked[name].fit.draws for name in ("final", "choice", "probe")]
    assert draws == [FINAL_DRAWS, PROBE_DRAWS, PROBE_DRAWS]
    assert not set(FINAL_DRAWS) & set(PROBE_DRAWS)
    without = context(real=replace(given.real, held_out=None))
    with pytest.raises(ValueError, match="held-out"):
        without.score("choice", given.distilled, held_out=True)


def test_the_dtype_of_training_is_a_setting(context, asked):
    config = replace(context().config, dtype="bfloat16")
    evaluator = Evaluator(
        ConvNet(num_classes=2, width=2, depth=1, norm="none"),
        config,
        AugmentConfig(flip=False),
        0,
        Preemption(),
    )
    given = context(config=config, evaluator=evaluator)
    given.score("final", given.distilled)
    given.evaluator.probe(given.distilled, given.real.held_out, 2)
    assert [asked[name].fit.dtype for name in ("final", "probe")] == ["bfloat16"] * 2


def test_another_net_rate_length_and_augmentation(context, asked):
    wider = NetConfig(width=3, depth=2, norm="none")
    given = context()
    given.score("default", given.distilled)
    settings = {"nets": 7, "steps": 3, "learning_rate": 0.5}
    settings["augment"] = AugmentConfig(flip=True)
    given.score("other", given.distilled, net=wider, **settings)
    given.score("again", given.distilled, net=wider)
    default, other = asked["default"], asked["other"]
    assert (default.module.width, other.module.width) == (2, 3)
    assert asked["again"].module is other.module  # its compiled functions are reused
    assert (default.fit.steps, default.fit.learning_rate, default.nets) == (30, 1e-2, 2)
    assert (other.fit.steps, other.fit.learning_rate, other.nets) == (3, 0.5, 7)
    assert (default.fit.augment.flip, other.fit.augment.flip) == (False, True)
    assert not default.fit.constant
    with pytest.raises(InputError, match="DEPTH"):
        given.score("bad", given.distilled, net=replace(wider, depth=9))


def test_registered_evaluations_load():
    loaded = load_evaluations(list(EVALUATIONS))
    assert list(loaded) == list(EVALUATIONS)
    assert all(evaluation.title for evaluation in loaded.values())


def test_an_evaluation_may_refuse_a_task_before_the_run():
    config = EvaluationConfig(full_data=True)
    task = Task(config, NetConfig(), (8, 8, 1), 10, held_out=30, in_memory=True)
    streamed = replace(task, in_memory=False)
    without = replace(streamed, config=EvaluationConfig())
    for possible in (task, without):
        assert load_evaluations(["accuracy"], possible).keys() == {"accuracy"}
    with pytest.raises(InputError) as caught:
        load_evaluations(["accuracy"], streamed)
    assert "FULL_DATA" in caught.value.what
    assert "DATA_PLACEMENT=memory" in caught.value.fix


def test_an_evaluation_without_a_check_suits_every_task(monkeypatch):
    monkeypatch.setitem(sys.modules, "some_evaluations", sys.modules[__name__])
    task = Task(EvaluationConfig(), NetConfig(), (8, 8, 1), 10, held_out=0, in_memory=True)
    assert load_evaluations(["some_evaluations.Halves"], task)


@pytest.mark.parametrize(
    "name", ["Missing", "Untitled", "NeedsArguments", "Broken", "a_function", "KEYS"]
)
def test_what_is_no_evaluation_is_refused(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "some_evaluations", sys.modules[__name__])
    path = f"some_evaluations.{name}"
    with pytest.raises(InputError) as caught:
        load_evaluations(["accuracy", path])
    assert repr(path) in caught.value.what
    with pytest.raises(InputError) as caught:
        load_evaluations(["no_such_module.Own"])
    assert "PYTHONPATH" in caught.value.fix
