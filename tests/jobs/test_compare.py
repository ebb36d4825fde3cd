import dataclasses
import json
import re

import numpy as np
import pytest
from bad_input.made import make_run

from frepo_scale.export.formats import read_npz, write_npz
from frepo_scale.jobs.evaluation_folder import JUDGED, fingerprint_of, folder_of, open_evaluation
from frepo_scale.main import main

METRICS = [{"step": s, "probe_accuracy": 0.1 * s, "regression_loss": 1 / s} for s in range(1, 5)]


def result(mean):
    row = {"key": "distilled", "label": "distilled set, last step", "mean": mean, "std": 0.01}
    other = {"key": "random_real", "label": "random real images", "mean": 0.5, "std": 0.02, "n": 3}
    rows = [row | {"n": 3}, other]
    return {"evaluations": [{"name": "accuracy", "title": "test accuracy", "rows": rows}]}


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """Two workdirs of one recipe, and an export with results."""
    monkeypatch.chdir(tmp_path)
    for name, mean in (("a", 0.8), ("b", 0.9)):
        workdir = make_run(name)
        workdir.result.write_text(json.dumps(result(mean)))
        workdir.metrics.write_text("".join(json.dumps(row) + "\n" for row in METRICS))
    export = read_npz("a/distilled.npz")
    changed = dataclasses.replace(
        export,
        results=result(0.7),
        evaluation={"width": 64},
        provenance={**export.provenance, "seed": 7},
    )
    write_npz("c.npz", changed)
    return tmp_path


def test_table_and_page(sets, capsys):
    assert main(["compare", "a", "b", "c.npz", "--out", "page.html"]) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[1].strip(): line for line in out.splitlines() if "±" in line}
    assert re.findall(r"[\d.]+ ± [\d.]+ %", rows["distilled set, last step"]) == [
        "80.0 ± 1.0 %",
        "90.0 ± 1.0 %",
        "70.0 ± 1.0 %",
    ]
    assert "evaluation: width" in out and "64" in out
    page = (sets / "page.html").read_text()
    assert '<td class="best">90.0 ± 1.0 %</td>' in page
    assert page.count('<td class="best">') == 4  # one, and a row where all are equal
    assert page.count("<svg") == 2  # nobody logged the third metric
    assert page.count("<img") == 3
    assert "different protocols" in page and "<script" not in page


def with_evaluation(path, export, **changes):
    write_npz(
        path,
        dataclasses.replace(
            export, results=result(0.95), evaluation={**export.evaluation, **changes}
        ),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"args": {"width_multiplier": 0.5}}, ["args", "width_multiplier"]),
        ({"augment": {"flip": True}}, ["flip", "True"]),
        ({"test": {"images": 7}}, ["test images", "7"]),
    ],
)
def test_every_part_of_the_protocol_that_differs_is_listed(changes, words, sets, capsys):
    export = read_npz("a/distilled.npz")
    with_evaluation("same.npz", export)
    with_evaluation("other.npz", export, **changes)
    assert main(["compare", "same.npz", "other.npz"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "evaluation:" in line]
    assert all(word in line for word in words)
    assert "different protocols" in (sets / "compare.html").read_text()


def test_sets_of_different_classes_have_no_best(sets, capsys):
    """One that has to tell fewer classes apart is right more often."""
    export = read_npz("a/distilled.npz")
    half = dataclasses.replace(
        export,
        images=export.images[:5],
        labels=export.labels[:5],
        hard_labels=export.hard_labels[:5],
    )
    with_evaluation("whole.npz", export)
    with_evaluation("half.npz", half)
    assert main(["compare", "whole.npz", "half.npz"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"classes +0-9 of 10 +0-4 of 10", out) and "different classes" in out
    page = (sets / "compare.html").read_text()
    assert "different classes" in page and '<td class="best">' not in page


def test_settings_that_differ_are_listed(sets, capsys):
    export = read_npz("a/distilled.npz")
    text = export.provenance["config"].replace("\nLEARNING_RATE = 0.003", "\nLEARNING_RATE = 0.5")
    changed = text.replace("CHUNK = ", "NO_OTHER_SET_HAS_IT = 5\nCHUNK = ")
    changed = re.sub("CROSS_NETS = .*", r"CROSS_NETS = \\\n    ['mlp',\n     'convnet']", changed)
    assert text != export.provenance["config"] and changed != text
    write_npz(
        "c.npz", dataclasses.replace(export, provenance=export.provenance | {"config": changed})
    )
    assert main(["compare", "a", "b", "c.npz"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "setting:" in line]
    assert [row[1] for row in rows] == ["CROSS_NETS", "LEARNING_RATE"]
    assert rows[0][-2:] == ["['mlp',", "'convnet']"]
    assert rows[1] == ["setting:", "LEARNING_RATE", "0.003", "0.003", "0.5"]


def test_the_best_may_be_the_lowest(sets):
    for name, mean in (("a", 0.2), ("b", 0.1)):
        row = {"key": "hlr", "label": "HLR", "mean": mean, "std": 0.01, "n": 3}
        table = {"name": "x", "title": "x", "rows": [row | {"lower_is_better": True}]}
        (sets / name / "result.json").write_text(json.dumps({"evaluations": [table]}))
    assert main(["compare", "a", "b"]) == 0
    assert '<td class="best">10.0 ± 1.0 %</td>' in (sets / "compare.html").read_text()


def test_names_are_the_ends_of_paths_that_differ(sets, capsys):
    for name in ("one/x", "two/x"):
        make_run(name)
    assert main(["compare", "a", "one/x", str(sets / "two" / "x")]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [f"{sets.name}/a", "one/x", "two/x"]


def test_names_are_recipes_where_they_differ(sets, capsys):
    for name in "ab":
        text = (sets / name / "config.gin").read_text()
        (sets / name / "config.gin").write_text(f"# recipe: of_{name}\n{text}")
    assert main(["compare", "a", "b"]) == 0
    assert "of_a" in capsys.readouterr().out
    assert (sets / "compare.html").is_file()


def rows_of(out):
    """The accuracies by label, with the heading of their table."""
    found, title = {}, ""
    for line in out.splitlines():
        if not line.startswith(" "):
            title = line
        elif "%" in line:
            label, *cells = re.split(r"  +", line.strip())
            found[title, label] = cells
    return found


def judge(path, mean, export, **evaluated):
    """What `frepo-scale evaluate` leaves beside a set."""
    workdir = open_evaluation(folder_of(path), fingerprint_of(export), {}, {}, export)
    content = result(mean) | {"protocol": {"net": "convnet", "width": 16}} | evaluated
    workdir.evaluation.write_text(json.dumps(content))
    return workdir


def test_evaluation_json_is_shown_beside_the_result(sets, capsys):
    content = result(0.6) | {"protocol": {"net": "mlp", "width": 16}}
    (sets / "a" / "evaluation.json").write_text(json.dumps(content))
    assert main(["compare", "a", "b"]) == 0
    out = capsys.readouterr().out
    found = rows_of(out)
    label = "distilled set, last step"
    assert found["test accuracy", label] == ["80.0 ± 1.0 %", "90.0 ± 1.0 %"]
    assert found["test accuracy (frepo-scale evaluate)", label] == ["60.0 ± 1.0 %", "–"]
    assert re.search(r"evaluation \(frepo-scale evaluate\): net +mlp +–", out)
    page = (sets / "compare.html").read_text()
    assert "Test accuracy (frepo-scale evaluate)" in page and "same protocol" in page
    (sets / "a" / "evaluation.json").write_text("{")
    assert main(["compare", "a", "b"]) == 2
    assert "evaluation.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "name"), [("npz", "e.npz"), ("folder", "f"), ("safetensors", "s")]
)
def test_an_export_holds_what_was_measured_before_it(form, name, sets, capsys):
    """And a page of it, made elsewhere, has the same numbers as one of the run."""
    assert main(["export", "a", "--out", "before.npz"]) == 0
    protocol = {"net": "resnet18", "width": 16, "test": {"images": 7}}
    content = result(0.6) | {"protocol": protocol, "environment": {"devices": "of the maker"}}
    (sets / "a" / "evaluation.json").write_text(json.dumps(content))
    assert main(["export", "a", "--format", form, "--out", name]) == 0
    if form == "safetensors":
        card = (sets / "s" / "README.md").read_text()
        assert "| 80.0 ± 1.0 % |" in card and "| 60.0 ± 1.0 % |" in card
        assert "net resnet18" in card and "of the maker" not in card
    capsys.readouterr()
    assert main(["compare", "before.npz", name, "b"]) == 0
    found = rows_of(capsys.readouterr().out)
    label = "distilled set, last step"
    assert found["test accuracy", label] == ["80.0 ± 1.0 %", "80.0 ± 1.0 %", "90.0 ± 1.0 %"]
    later = found["test accuracy (frepo-scale evaluate)", label]
    assert later == ["–", "60.0 ± 1.0 %", "–"]


def test_a_damaged_later_result_in_an_export_is_one_line(sets, capsys):
    export = read_npz("c.npz")
    rows = [{"key": "x", "label": "x", "mean": "much"}]
    later = {"evaluations": [{"name": "x", "title": "x", "rows": rows}]}
    write_npz("d.npz", dataclasses.replace(export, results=export.results | {"evaluated": later}))
    assert main(["compare", "a", "d.npz"]) == 2
    err = capsys.readouterr().err
    assert "d.npz" in err and "mean" in err and err.count("\n") == 1


def test_every_export_is_taken(sets, capsys):
    export = read_npz("a/distilled.npz")
    images = np.random.default_rng(0).uniform(-0.2, 1.2, export.images.shape).astype(np.float32)
    write_npz("a/distilled.npz", dataclasses.replace(export, images=images))
    written = [("npz", "e.npz"), ("folder", "f"), ("safetensors", "s")]
    for form, name in written:
        assert main(["export", "a", "--format", form, "--out", name]) == 0
    names = [name for _, name in written]
    judge(sets / "f", 0.3, read_npz("e.npz"))
    capsys.readouterr()
    assert main(["compare", *names, "b"]) == 0
    found = rows_of(capsys.readouterr().out)
    label = "distilled set, last step"
    assert found["test accuracy", label] == ["80.0 ± 1.0 %"] * 3 + ["90.0 ± 1.0 %"]
    cells = ["–", "30.0 ± 1.0 %", "–", "–"]
    assert found["test accuracy (frepo-scale evaluate)", label] == cells
    images = re.findall(r'src="(data:[^"]+)"', (sets / "compare.html").read_text())
    # The same pixels from each form, and others of the other run.
    assert len(images) == 4 and len(set(images[:3])) == 1 and len(set(images)) == 2
    (sets / "f" / "dataset.json").write_text("{")
    assert main(["compare", "a", "f"]) == 2
    assert "f/dataset.json" in capsys.readouterr().err


def test_a_judged_set_of_another_program(sets, capsys):
    """Its numbers stand in the row of those that a run has measured at its end."""
    export = dataclasses.replace(read_npz("c.npz"), results={}, provenance={"dataset": "digits"})
    np.savez("set.npz", images=np.zeros((10, 8, 8, 1), np.uint8), labels=np.arange(10))
    folder = judge(sets / "set.npz", 0.65, export).root
    folder.rename(sets / "kept")
    judge(sets / "set.npz", 0.65, export)
    for given in ("set.npz", "kept"):
        assert main(["compare", "a", given]) == 0
        out = capsys.readouterr().out
        cells = ["80.0 ± 1.0 %", "65.0 ± 1.0 %"]
        assert rows_of(out)["test accuracy", "distilled set, last step"] == cells
        assert "(frepo-scale evaluate)" not in out and given in out
    assert (sets / "compare.html").read_text().count("<img") == 2
    (sets / "kept" / "evaluation.json").unlink()
    assert main(["compare", "a", "kept"]) == 2
    assert "kept" in capsys.readouterr().err


def test_the_evaluation_of_another_export_is_refused(sets, capsys):
    export = read_npz("c.npz")
    judge(sets / "c.npz", 0.65, export)
    assert main(["compare", "a", "c.npz"]) == 0
    write_npz("c.npz", dataclasses.replace(export, images=export.images + 1))
    capsys.readouterr()
    assert main(["compare", "a", "c.npz"]) == 2
    assert "c.npz.evaluation" in capsys.readouterr().err
    assert (sets / "c.npz.evaluation" / JUDGED).is_file()


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (["a"], "1 set"),
        (["a", "none"], "none"),
        (["a", "images"], "evaluate PATH --dataset"),
        (["a", "b", "--out", "a"], "--out a"),
        (["a", "b", "./a/../b"], "twice"),
    ],
)
def test_wrong_input(arguments, mention, sets, capsys):
    (sets / "images" / "0").mkdir(parents=True)
    before = sorted(sets.rglob("*"))
    assert main(["compare", *arguments]) == 2
    err = capsys.readouterr().err
    assert mention in err and err.count("\n") == 1
    assert sorted(sets.rglob("*")) == before
