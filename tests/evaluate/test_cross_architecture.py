"""Nets the set was not made with: which ones, their learning rates, BatchNorm, restarts."""

import ast
import types
from dataclasses import replace

import jax
import numpy as np
import pytest

from frepo_scale.core.errors import InputError, Preempted
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Split
from frepo_scale.evaluate import cross_architecture
from frepo_scale.evaluate.baselines import with_hard_labels
from frepo_scale.evaluate.cross_architecture import RATES, CrossArchitecture
from frepo_scale.evaluate.evaluation import Task
from frepo_scale.evaluate.fit import FINAL_DRAWS, PROBE_DRAWS, Fitter
from frepo_scale.evaluate.named_nets import named_nets
from frepo_scale.evaluate.protocol import EvaluationConfig, Evaluator
from frepo_scale.evaluate.run import evaluate_sets
from frepo_scale.models.registry import NetConfig

MLP = {"name": "mlp", "width": 4, "depth": 1}


def test_entries_take_what_they_leave_out_from_the_default_net():
    default = NetConfig("convnet", 8, 2, "none", {})
    nets = named_nets(["convnet", "resnet18/batch", MLP, {"norm": "layer"}], default)
    assert nets == {
        "convnet/none": default,
        "resnet18/batch": replace(default, name="resnet18", norm="batch"),
        "mlp/none width=4 depth=1": replace(default, name="mlp", width=4, depth=1),
        "convnet/layer": replace(default, norm="layer"),
    }


def test_args_belong_to_one_net():
    default = NetConfig("resnet18", args={"width_multiplier": 0.5})
    small = {"name": "vgg11", "norm": "none", "args": {"width_multiplier": 0.25}}
    nets = named_nets(["resnet18/batch", "alexnet/none", small], default)
    assert [net.args for net in nets.values()] == [default.args, {}, small["args"]]
    assert list(nets) == [
        "resnet18/batch width_multiplier=0.5",
        "alexnet/none",
        "vgg11/none width_multiplier=0.25",
    ]


@pytest.mark.parametrize(
    "entries", [[], [3], ["convnett"], ["convnet/bach"], ["mlp", "mlp/batch"], [{"nam": "mlp"}]]
)
def test_wrong_entries_are_refused(entries):
    with pytest.raises(InputError) as caught:
        named_nets(entries, NetConfig())
    assert "CROSS_NETS" in caught.value.what


def task(nets, held_out=30, shape=(8, 8, 1)):
    config = EvaluationConfig(cross_nets=nets)
    return Task(config, NetConfig(norm="none"), shape, 10, held_out, in_memory=False)


def test_a_net_that_does_not_suit_the_images_is_refused_before_the_run():
    CrossArchitecture().check(task(["convnet", "alexnet"]))
    with pytest.raises(InputError) as caught:
        CrossArchitecture().check(task(["convnet", "vgg11/batch", "mlp"]))
    assert "'vgg11/batch'" in caught.value.what
    setting = caught.value.fix.removeprefix('use --gin.CROSS_NETS="').removesuffix('"')
    CrossArchitecture().check(task(ast.literal_eval(setting)))
    with pytest.raises(InputError) as caught:
        CrossArchitecture().check(task(["vgg11"]))
    assert "EVALUATIONS" in caught.value.fix


def test_without_held_out_images_there_is_no_rate_to_choose():
    with pytest.raises(InputError) as caught:
        CrossArchitecture().check(task(["convnet"], held_out=0))
    assert "cross_architecture" in caught.value.what


def rate_of(name):
    """Another best rate for each net and set."""
    return RATES[sum(map(ord, name)) % len(RATES)]


@pytest.fixture
def asked(monkeypatch):
    """The requests to the evaluator; a net is right in proportion to how good its rate is."""
    calls = []

    def measure(self, name, fit, nets, labelled, test, finished, at=()):
        tested = []
        test(types.SimpleNamespace(accuracy=lambda rows: tested.append(rows) or (0.5, 0.5)))
        key = name.partition("/")[2]
        calls.append(
            types.SimpleNamespace(
                key=key, fit=fit, nets=nets, rows=tested[0], images=labelled(0).images
            )
        )
        best = rate_of(key.partition(" rate ")[0])
        accuracy = 0.9 if fit.learning_rate == best else 0.5
        return [(accuracy, 1.0)] * nets

    monkeypatch.setattr(Evaluator, "measure", measure)
    return calls


def test_each_net_and_set_has_the_best_rate_on_held_out_images(context, asked):
    config = replace(context().config, cross_nets=["convnet", MLP], cross_runs=3)
    given = context(config=config)
    rows = list(CrossArchitecture().run(given))
    assert [(row.facts["row"], row.facts["column"]) for row in rows] == [
        (net, what)
        for net in ("convnet/none", "mlp/none width=4 depth=1")
        for what in ("distilled set", "hard labels", "random real images")
    ]
    assert {row.facts["learning_rate"] for row in rows} > {RATES[0]}
    for row in rows:
        assert row.facts["learning_rate"] == rate_of(row.key)
        assert (row.score.mean, row.score.n) == (0.9, 3)
    assert len(asked) == 6 * (len(RATES) + 1)
    for call in asked:
        chooses = " rate " in call.key
        assert call.rows is (given.real.held_out if chooses else given.real.test)
        assert call.fit.draws == (PROBE_DRAWS if chooses else FINAL_DRAWS)
        assert call.nets == (1 if chooses else 3)
    random = [call.images for call in asked if call.key.endswith("random_real")]
    assert not any(np.array_equal(images, given.distilled.images) for images in random)


def test_a_set_with_hard_labels_has_no_second_column_of_them(context, asked):
    given = context(config=replace(context().config, cross_nets=["convnet"]))
    given = replace(given, sets={"distilled": with_hard_labels(given)})
    rows = list(CrossArchitecture().run(given))
    assert [row.facts["column"] for row in rows] == [
        "distilled set, hard labels",
        "random real images",
    ]
    assert not any("distilled_hard" in call.key for call in asked)


def test_it_resumes_where_it_was_stopped(context, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_architecture, "RATES", RATES[-2:])
    config = replace(context().config, cross_nets=[MLP], steps=4)
    evaluations = {"cross_architecture": CrossArchitecture()}
    trained, fit = [], Fitter.fit

    def stopping(self, data, net, preemption, progress, visited=None):
        if len(trained) == 5:
            raise Preempted
        trained.append(net)
        return fit(self, data, net, preemption, progress, visited)

    monkeypatch.setattr(Fitter, "fit", stopping)
    with pytest.raises(Preempted):
        evaluate_sets(evaluations, context(tmp_path / "nets.json", config=config))
    monkeypatch.setattr(Fitter, "fit", lambda *args: trained.append(args[2]) or fit(*args))
    found = evaluate_sets(evaluations, context(tmp_path / "nets.json", config=config))
    # Two rates and two nets for each of the three sets, none twice.
    assert trained == [0, 0, 0, 1] * 3
    rows = found["evaluations"][0]["rows"]
    assert len(rows) == 3
    for row in rows:
        assert row["learning_rate"] in RATES[-2:] and row["n"] == 2


@pytest.mark.slow
def test_batch_norm_nets_train_on_whole_batches_and_test_with_running_statistics(context):
    net = NetConfig("resnet10", norm="batch", args={"width_multiplier": 1 / 16})
    given = context(config=replace(context().config, steps=40, learning_rate=3e-3))
    labels = np.eye(2, dtype=np.float32)[given.real.train.labels] - 0.5
    real = DistilledSet(given.real.train.images, labels)
    trained = given.train("net", real, net=net)
    test = given.real.test
    together, _ = trained.accuracy(test)
    assert together > 0.85  # chance is 0.5
    # In training mode the result would depend on the other images of the batch.
    alone = [
        trained.accuracy(Split(test.images[i : i + 1], test.labels[i : i + 1]))[0]
        for i in range(len(test))
    ]
    np.testing.assert_allclose(np.mean(alone), together, atol=1e-6)
    means = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(trained.variables["batch_stats"])[0]
        if path[-1].key == "mean"
    ]
    assert len(means) == 12 and all(np.any(mean) for mean in means)
