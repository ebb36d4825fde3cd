"""The folder of an evaluation: what is kept there, and what is never overwritten."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_input.made import make_run
from exported_digits import digits_export

import frepo_scale as fs
from frepo_scale import config
from frepo_scale.core.errors import Preempted
from frepo_scale.core.paths import to_path
from frepo_scale.export.formats import read_npz, write_npz
from frepo_scale.jobs import evaluate as evaluate_job
from frepo_scale.jobs.evaluation_folder import JUDGED, folder_of, open_evaluation, set_sha256
from frepo_scale.main import main

GIVEN = ["evaluate", "set.npz", "--dataset", "digits", "--gin.FULL_DATA=False"]
ROW = {"key": "distilled", "label": "distilled set", "mean": 0.5, "std": 0.1, "n": 2}


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A set of another program; each evaluation measures two nets, and keeps what it measured."""
    monkeypatch.chdir(tmp_path)
    pixels, labels = digits_export("own.npz")
    first = np.array([np.flatnonzero(labels == k)[0] for k in range(10)])
    np.savez("set.npz", images=pixels[first], labels=labels[first])
    found = []

    def score(evaluations, context):
        for net in range(2):

            def measure(net=net):
                if net in stops:
                    stops.remove(net)
                    raise Preempted(42)
                found.append(net)
                return [0.5]

            context.named("e").stored("a", net, measure)
        return {"evaluations": [{"name": "accuracy", "title": "accuracy", "rows": [ROW]}]}

    monkeypatch.setattr(evaluate_job, "evaluate_sets", score)
    stops = []
    return tmp_path, found, stops


def refused(capsys, *arguments, mentions=()):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(words in err for words in mentions)


def test_a_stopped_evaluation_of_a_set_resumes(measured, capsys):
    folder, found, stops = measured
    stops.append(1)
    assert main(GIVEN) != 0
    assert "the same command resumes" in capsys.readouterr().out
    kept = folder / "set.npz.evaluation"
    assert not (kept / "evaluation.json").exists() and found == [0]
    assert main(GIVEN) == 0
    assert found == [0, 1]  # the finished net is not measured again
    out = capsys.readouterr().out
    assert "written to set.npz.evaluation/evaluation.json" in out
    # Hard labels: of the baselines only all training images are left out.
    assert "--gin.FULL_DATA=True" in out and "SOFT_RANDOM" not in out
    written = json.loads((kept / "evaluation.json").read_text())
    assert written["evaluations"][0]["rows"] == [ROW] and written["protocol"]["nets"] > 0
    judged = read_npz(kept / "judged.npz")
    pixels = np.load("set.npz")["images"]
    np.testing.assert_array_equal(judged.to_pixels(), pixels)
    assert judged.provenance["dataset"] == "digits" and judged.provenance["ipc"] == 1


def test_settings_that_only_add_measurements_keep_the_finished_nets(measured, capsys):
    """The settings that the line on baselines advises among them."""
    _, found, _ = measured
    for further in ([], ["--gin.FULL_DATA=True"], ["--gin.EVALUATIONS=['accuracy','scores']"]):
        assert main([*GIVEN, *further]) == 0
    assert found == [0, 1]
    assert "not measured" in capsys.readouterr().out
    assert main([*GIVEN, "--gin.FULL_DATA=True"]) == 0
    assert "not measured" not in capsys.readouterr().out


def test_a_set_of_one_class_is_judged_whatever_the_size_of_a_target_batch(measured, capsys):
    """As the line on the missing classes advises."""
    arrays = dict(np.load("set.npz"))
    np.savez("set.npz", images=arrays["images"][3:4], labels=arrays["labels"][3:4])
    refused(capsys, *GIVEN, mentions=["--gin.CLASSES=3"])
    assert main([*GIVEN, "--gin.CLASSES=3"]) == 0  # the batch of the recipe has 256 images


def test_a_set_of_our_own_on_other_data_is_said(measured, capsys):
    own = read_npz("own.npz")
    names = ("nought", *own.class_names[1:])
    made = {**own.provenance, "dataset": "mnist", "dataset_sha256": "f" * 64}
    text = "DATASET = 'digits'\nIPC = 1\n"
    changed = replace(own, class_names=names, provenance=made | {"config": text})
    write_npz("changed.npz", changed)
    assert main(["evaluate", "changed.npz"]) == 0
    out = capsys.readouterr().out
    assert "mnist with dataset_sha256 ffffffffffff" in out and "'nought'" in out
    written = json.loads(Path("changed.npz.evaluation/evaluation.json").read_text())
    assert written["protocol"]["dataset"] == "digits"
    write_npz("same.npz", replace(own, provenance={"config": text}))
    assert main(["evaluate", "same.npz"]) == 0
    assert "made from" not in capsys.readouterr().out


def test_another_set_or_other_settings_are_refused(measured, capsys):
    folder, found, _ = measured
    assert main(GIVEN) == 0
    before = (folder / "set.npz.evaluation" / "evaluation.json").read_bytes()
    mentions = ["evaluation.nets", "is now 4", "--out"]
    refused(capsys, *GIVEN, "--gin.EVAL_NETS=4", mentions=mentions)
    refused(capsys, *GIVEN, "--normalised", "0", "0.003", mentions=["set_sha256"])
    arrays = dict(np.load("set.npz"))
    np.savez("set.npz", images=255 - arrays["images"], labels=arrays["labels"])
    refused(capsys, *GIVEN, mentions=["set.npz.evaluation", "set_sha256"])
    assert (folder / "set.npz.evaluation" / "evaluation.json").read_bytes() == before
    assert found == [0, 1]
    assert main([*GIVEN, "--out", "new/one"]) == 0  # as advised
    assert (folder / "new" / "one" / "evaluation.json").is_file()


def test_what_is_not_of_an_evaluation_is_never_overwritten(measured, capsys):
    folder, found, _ = measured
    (folder / "mine").mkdir()
    (folder / "mine" / "identity.json").write_text("{}")
    (folder / "file").write_text("mine")
    for out in ("mine", "file", "file/below"):
        refused(capsys, *GIVEN, "--out", out, mentions=[out, "--out"])
    assert found == [] and (folder / "mine" / "identity.json").read_text() == "{}"
    assert (folder / "file").read_text() == "mine"


def test_the_python_function_takes_the_folder(measured):
    folder, _, _ = measured
    scores = fs.evaluate("set.npz", "digits", out=folder / "kept", EVAL_NETS=2)
    assert json.loads((folder / "kept" / "evaluation.json").read_text()) == scores


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((0.5, 1), ((0.5,), (1.0,))),
        (("0.5,0.4", "1,2"), ((0.5, 0.4), (1.0, 2.0))),
        (([0.5, 0.4], np.array([1, 2])), ((0.5, 0.4), (1.0, 2.0))),
    ],
)
def test_a_normalisation_is_given_as_text_or_numbers(tmp_path, given, expected):
    told = evaluate_job.told_about(tmp_path, None, given)
    assert told.normalised == expected
    for wrong in ((0.5,), 0.5, ("a", "1"), (None, 1), ([None], 1)):
        with pytest.raises(fs.InputError) as caught:
            evaluate_job.told_about(tmp_path, None, wrong)
        assert "--normalised" in caught.value.what


def test_the_path_of_the_data_is_not_that_of_another_data_set(tmp_path, monkeypatch):
    """MNIST and Fashion-MNIST have files of the same names and shapes."""
    monkeypatch.chdir(tmp_path)
    make_run("w", DATA_DIR="/of/digits")

    def path(dataset, **given):
        return config.recipe_of_set(Path("w"), dataset, given).config.data.directory

    assert path(None) == path("digits") == "/of/digits"
    assert path("mnist") is None is path(None, DATASET="mnist")
    assert path("mnist", DATA_DIR="/of/mnist") == "/of/mnist"


def test_a_series_keeps_its_evaluation(measured, capsys):
    make_run("w", SERIES="'classes'")
    refused(capsys, "evaluate", "w", "--out", "x", mentions=["--out x", "SERIES"])


def test_a_set_on_a_store_is_evaluated_beside_it(tmp_path, store):
    digits_export(tmp_path / "e.npz")
    export, folder = read_npz(tmp_path / "e.npz"), folder_of(to_path("gs://bucket/sets/e.npz"))
    for _ in range(2):
        workdir = open_evaluation(folder, "f" * 64, {"a": 1}, {}, export)
        assert str(workdir.evaluation) == "gs://bucket/sets/e.npz.evaluation/evaluation.json"
    with pytest.raises(fs.InputError) as caught:
        open_evaluation(folder, "e" * 64, {"a": 1}, {}, export)
    assert "gs://bucket/sets/e.npz.evaluation" in caught.value.what
    np.testing.assert_array_equal(read_npz(folder / JUDGED).labels, export.labels)


def test_the_default_folder_is_beside_the_set(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    assert folder_of(tmp_path / "a.npz") == tmp_path / "a.npz.evaluation"
    assert folder_of(Path(".")) == tmp_path / "set.evaluation"


def test_equal_bytes_of_other_shapes_or_types_are_other_sets():
    a = np.arange(12, dtype=np.int32)
    digests = {set_sha256([x]) for x in (a, a.reshape(3, 4), a.view(np.uint32), a + 1)}
    assert len(digests) == 4
    assert set_sha256([a], "told") != set_sha256([a]) == set_sha256([a, None])


def test_a_setting_of_a_later_version_counts_as_its_default(tmp_path):
    digits_export(tmp_path / "e.npz")
    export, folder = read_npz(tmp_path / "e.npz"), tmp_path / "kept"
    open_evaluation(folder, "f" * 64, {"a": 1}, {}, export)
    open_evaluation(folder, "f" * 64, {"a": 1, "b": 2}, {"b": 2}, export)
    with pytest.raises(fs.InputError) as caught:
        open_evaluation(folder, "f" * 64, {"a": 1, "b": 3}, {"b": 2}, export)
    assert str(folder) in caught.value.what and "b was 2" in caught.value.what
