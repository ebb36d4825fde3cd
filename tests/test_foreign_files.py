"""Files of strangers: nothing in them is imported, and what is wrong in them is one line."""

import json
import re
import sys

import numpy as np
import pytest
from bad_input.made import make_run
from exported_digits import digits_export

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.export.formats import read_npz, write_npz
from frepo_scale.jobs import evaluate as evaluate_job
from frepo_scale.jobs.exported import portable
from frepo_scale.main import main

HARMFUL = "import pathlib\npathlib.Path('harm').touch()\nclass Net:\n    pass\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module that leaves a file when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "harmful", raising=False)
    (tmp_path / "harmful.py").write_text(HARMFUL)
    return tmp_path


def line_of(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    return err


SETTINGS = {
    "NET": "harmful.Net",
    "ALGORITHM": "harmful.Net",
    "DATA_SOURCE": "harmful.Net",
    "EVALUATIONS": "['harmful.Net']",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_class_that_only_a_file_names_is_not_imported(name, here, capsys):
    """In an export, in a workdir, and in a config.gin that is given as a recipe."""
    workdir = make_run("w", **{name: SETTINGS[name]})
    for arguments in (
        ["evaluate", "w/distilled.npz"],
        ["evaluate", "w"],
        ["distill", "w/config.gin", "--workdir", "new"],
    ):
        workdir.config.write_text("# recipe: digits_ipc1\n" + workdir.config.read_text())
        assert f"use --gin.{name}=" in line_of(capsys, *arguments)
    assert not (here / "harm").exists()


@pytest.mark.parametrize("name", ["NET", "DATA_SOURCE", "EVALUATIONS"])  # what evaluate imports
def test_the_advice_names_it(name, here, capsys):
    """The class is imported then; it is none of the right kind, which is another error."""
    make_run("w", **{name: SETTINGS[name]})
    advice = re.search(r"use (--gin\.\S+)", line_of(capsys, "evaluate", "w"))[1].replace('"', "")
    data = ["--gin.DATASET=folder", "--gin.DATA_DIR=."] if name == "DATA_SOURCE" else []
    said = line_of(capsys, "evaluate", "w", advice, *data)
    assert f"use --gin.{name}=" not in said
    assert (here / "harm").exists()


def test_a_recipe_of_ones_own_may_name_classes(here):
    (here / "mine.gin").write_text("DATASET = 'digits'\nIPC = 1\nNET = 'harmful.Net'\n")
    assert config.load_recipe(here / "mine.gin", {}).config.net.name == "harmful.Net"


def test_an_export_has_no_path_of_its_maker():
    for path in ("/home/me/data", "/a place/" + "long " * 40):
        text = config.load_recipe(config.find_recipe("digits_ipc1"), {"DATA_DIR": path}).text
        found = config.load_text("x", portable(text), {}).config
        assert found.data.directory is None
        assert "/home" not in portable(text) and "long" not in portable(text)
        given = config.load_text("x", text, {}).config
        assert found.net == given.net and found.distill == given.distill


def test_names_of_ones_own_for_a_path_are_none_in_an_export(here):
    lines = ["DATASET = 'digits'", "IPC = 1", "ROOT = '/home/me'", "DATA_DIR = %ROOT"]
    (here / "mine.gin").write_text("\n".join(lines) + "\n")
    text = config.load_recipe(here / "mine.gin", {}).text
    assert "/home" in text and "/home" not in portable(text)
    assert config.load_text("x", portable(text), {}).config.data.directory is None


def test_the_run_of_an_earlier_version_is_exported_without_its_path_and_with_its_result(here):
    workdir = make_run("w", DATA_DIR="/home/me")
    made = read_npz(workdir.distilled)
    assert "/home/me" in made.provenance["config"] and not made.results
    row = {"key": "distilled", "label": "distilled", "mean": 0.5, "std": 0.1, "n": 3}
    result = {"evaluations": [{"name": "accuracy", "title": "accuracy", "rows": [row]}], "steps": 2}
    workdir.result.write_text(json.dumps(result | {"selected_by": "held-out"}))
    assert main(["export", "w", "--format", "npz", "--out", "e.npz"]) == 0
    found = read_npz("e.npz")
    assert "/home" not in found.provenance["config"] and "DATA_DIR = None" in str(found.provenance)
    assert found.results == {"selected_by": "held-out", "evaluations": result["evaluations"]}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("result.json", lambda r: r["distilled"].update(mean="0.9")),
        ("result.json", lambda r: r["distilled"].update(std=[1])),
        ("result.json", lambda r: r.update(steps="many")),
        ("result.json", lambda r: r.update(seconds="1")),
        ("result.json", lambda r: r.update(selected_step="1")),
        ("result.json", lambda r: r.update(config_sha256=5)),
        ("result.json", lambda r: r.update(evaluations=5)),
        ("result.json", lambda r: r["evaluations"][0].update(rows=[5])),
        ("result.json", lambda r: r["evaluations"][0].pop("title")),
        ("result.json", lambda r: r["evaluations"][0]["rows"][0].update(mean=True)),
        ("metrics.jsonl", lambda r: r.update(loss="low")),
        ("metrics.jsonl", lambda r: r.update(probe_accuracy={})),
    ],
)
def test_numbers_that_are_none_are_one_line(name, change, here, capsys):
    workdir = make_run("w")
    row = {"key": "distilled", "label": "distilled", "mean": 0.5, "std": 0.1, "n": 3}
    result = {
        "distilled": {"mean": 0.5, "std": 0.1, "n": 3},
        "evaluations": [{"name": "accuracy", "title": "test accuracy", "rows": [row]}],
    }
    written = {"result.json": result, "metrics.jsonl": {"step": 1, "loss": 0.5}}
    for file, content in written.items():
        (workdir.root / file).write_text(json.dumps(content) + "\n")
    assert main(["report", "w"]) == 0
    change(written[name])
    (workdir.root / name).write_text(json.dumps(written[name]) + "\n")
    assert f"w/{name}" in line_of(capsys, "report", "w")
    make_run("v")
    assert f"w/{name}" in line_of(capsys, "compare", "w", "v")


def test_a_step_that_is_no_number_ends_the_metrics(here):
    workdir = make_run("w")
    workdir.metrics.write_text('{"step": "1", "loss": 0.5}\n')
    assert main(["report", "w"]) == 0


# Sets of other programs, through the command line ---------------------------------------------


@pytest.fixture
def scored(monkeypatch):
    """Evaluates nothing; keeps what would have been evaluated."""
    found = []

    def score(evaluations, context):
        found.append(context)
        row = {"key": "distilled", "label": "distilled set", "mean": 0.5, "std": 0.1, "n": 3}
        return {"evaluations": [{"name": "accuracy", "title": "test accuracy", "rows": [row]}]}

    monkeypatch.setattr(evaluate_job, "evaluate_sets", score)
    return found


def test_one_command_judges_any_set(here, scored, capsys):
    pixels, labels = digits_export("e.npz")
    first = np.array([np.flatnonzero(labels == k)[:2] for k in range(10)]).reshape(-1)
    np.savez("set.npz", images=pixels[first][..., 0], labels=labels[first])
    assert main(["evaluate", "set.npz", "--dataset", "digits"]) == 0
    out = capsys.readouterr().out
    assert "20 images (n, H, W), integer labels, pixels from 0 to 255" in out
    assert "50.0 ± 10.0 %" in out
    (context,) = scored
    assert context.ipc == 2
    exported = read_npz("e.npz")
    np.testing.assert_allclose(
        context.distilled.images, exported.preprocessing.apply(pixels[first]), atol=1e-5
    )
    assert "--dataset" in line_of(capsys, "evaluate", "set.npz")
    assert "did you mean digits" in line_of(capsys, "evaluate", "set.npz", "--dataset", "digts")
    given = ["evaluate", "set.npz", "--dataset", "digits", "--normalised"]
    assert "a b" in line_of(capsys, *given, "a", "b")
    assert "--labels" in line_of(capsys, "evaluate", "e.npz", "--labels", "set.npz")


@pytest.mark.parametrize("form", ["npz", "folder", "safetensors"])
def test_every_export_is_judged_without_being_told_its_data_set(form, here, scored, capsys):
    workdir = make_run("w")
    digits_export("e.npz")
    stored = read_npz(workdir.distilled).provenance
    export = read_npz("e.npz")
    write_npz(workdir.distilled, type(export)(**vars(export) | {"provenance": stored}))
    assert main(["export", "w", "--format", form, "--out", "out.npz"]) == 0
    assert main(["evaluate", "out.npz"]) == 0
    (context,) = scored
    np.testing.assert_allclose(context.distilled.images, export.images, atol=1e-5)
    np.testing.assert_array_equal(context.distilled.labels, export.labels)


def test_unknown_data_sets_and_damage_are_one_line(here, capsys):
    make_run("w")
    with pytest.raises(InputError):
        config.recipe_of_set(here / "nowhere.npz", None, {})
    assert main(["export", "w", "--format", "folder", "--out", "f"]) == 0
    (here / "f" / "dataset.json").write_text("{")
    assert "dataset.json" in line_of(capsys, "evaluate", "f")


def test_a_net_of_cross_nets_is_not_imported_either():
    text = "DATASET = 'digits'\nCROSS_NETS = ['convnet', 'harmful.Net']\n"
    with pytest.raises(InputError) as refused:
        config.load_text("theirs", text, {})
    assert "CROSS_NETS" in refused.value.what and "--gin.CROSS_NETS=" in refused.value.fix
    given = {"CROSS_NETS": "['convnet', 'harmful.Net']"}
    assert config.load_text("theirs", text, given).config.evaluation.cross_nets[1] == "harmful.Net"


def test_a_recipe_that_was_read_may_be_changed_without_naming_its_classes_again():
    text = "DATASET = 'digits'\nNET = 'harmful.Net'\n"
    recipe = config.load_text("mine", text, {"NET": "harmful.Net"})
    assert config.changed(recipe, {"IPC": "2"}).config.distill.ipc == 2
