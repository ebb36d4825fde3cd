"""Wrong input of evaluate, report and export."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bad_input.made import arrays, make_run

from frepo_scale.export.formats import read_npz, write_npz
from frepo_scale.jobs import surroundings
from frepo_scale.main import main


@pytest.mark.parametrize("target", ["nowhere", "neighbour.txt", "empty", "."])
@pytest.mark.parametrize("command", [["evaluate"], ["report"], ["export", "--out", "e"]])
def test_what_is_no_run(command, target, refused):
    os.mkdir("empty")
    refused(*command, target, mentions=[target])


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "nowhere"),
        ("report", "nowhere"),
        ("export", "nowhere", "--out", "e"),
        ("compare", "nowhere", "neighbour.txt"),
    ],
)
def test_what_does_not_exist(command, refused):
    refused(*command, mentions=["nowhere does not exist"])


@pytest.mark.parametrize("command", [["evaluate"], ["export", "--out", "e"]])
def test_a_run_that_has_not_finished(command, refused):
    make_run("w", finished=False)
    refused(*command, "w", mentions=["w has no distilled.npz", "resume it"])


@pytest.mark.parametrize("command", [["evaluate"], ["export", "--out", "e"]])
def test_a_damaged_distilled_set(command, refused):
    path = make_run("w").distilled
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        refused(*command, "w", mentions=["w/distilled.npz", "damaged"])


@pytest.mark.parametrize(
    ("name", "command"),
    [("config.gin", "evaluate"), ("config.gin", "report"), ("operative_config.gin", "report")],
)
def test_a_damaged_configuration(name, command, refused):
    path = make_run("w").root / name
    path.write_bytes(b"\xff")
    refused(command, "w", mentions=[f"w/{name} cannot be read"])
    path.unlink()
    refused(command, "w", mentions=[name])


def test_a_configuration_that_is_no_recipe(refused):
    make_run("w").config.write_text("import os\n")
    refused("evaluate", "w", mentions=["an import"])


def test_evaluate_takes_only_known_settings(refused):
    make_run("w")
    refused(
        "evaluate", "w", "--gin.EVAL_NET=2", mentions=["--gin.EVAL_NET", "did you mean EVAL_NETS"]
    )
    refused("evaluate", "w", "--gin.EVAL_NETS=0", mentions=["EVAL_NETS = 0"])
    refused("evaluate", "w/distilled.npz", "--gin.WIDTH=0", mentions=["WIDTH = 0"])


def test_evaluate_on_data_of_another_shape(refused):
    make_run("w")
    np.savez("d.npz", **arrays())
    given = ["--gin.DATASET=npz", "--gin.DATA_DIR=d.npz", "--gin.BATCH=4"]
    refused("evaluate", "w", *given, mentions=["(8, 8, 1) images of 10 classes", "images of 3"])


@pytest.mark.parametrize("labels", [np.arange(10)[::-1], np.zeros(10)])
def test_evaluate_a_set_whose_images_are_not_class_by_class(labels, refused):
    make_run("w")
    write_npz("e.npz", replace(read_npz("w/distilled.npz"), hard_labels=labels.astype(np.int32)))
    refused("evaluate", "e.npz", mentions=["e.npz", "class by class"])


def test_a_run_that_lost_its_distilled_set_is_not_finished(cwd, monkeypatch):
    make_run("w", finished=False).result.write_text("{}")
    monkeypatch.setattr(surroundings, "check_data", lambda workdir, dataset: None)
    with pytest.raises(AssertionError, match="compute was spent"):
        main(["distill", "digits_ipc1", "--workdir", "w"])


def test_a_report_has_the_name_of_the_recipe(cwd, capsys):
    made = make_run("w")
    assert main(["report", "w"]) == 0
    assert "<h1>w</h1>" in made.report.read_text()  # without the name of the recipe
    made.config.write_text("# recipe: digits_ipc1\n" + made.config.read_text())
    assert main(["report", "w"]) == 0
    assert "<h1>digits_ipc1</h1>" in made.report.read_text()


def test_an_npz_of_something_else(refused):
    np.savez("d.npz", **arrays())
    refused("evaluate", "d.npz", mentions=["d.npz"])


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_export_replaces_nothing(form, refused):
    make_run("w")
    given = ["export", "w", "--format", form, "--out"]
    refused(*given, "neighbour.txt", mentions=["neighbour.txt"])
    refused(*given, "w", mentions=["w"])
    refused(*given, "neighbour.txt/e", mentions=["cannot write neighbour.txt/e"])
    refused(*given, "gs://bucket/e", mentions=["a local path"])


def test_export_writes_where_nothing_is(cwd, capsys):
    make_run("w")
    assert main(["export", "w", "--out", "new/e.npz"]) == 0
    assert main(["export", "w", "--format", "folder", "--out", "f"]) == 0
    assert Path("new/e.npz").read_bytes() == Path("w/distilled.npz").read_bytes()
    assert len(list(Path("f").rglob("*.png"))) == 10


@pytest.mark.parametrize("command", [["report", "w"], ["export", "w", "--out", "e"]])
def test_report_and_export_take_no_settings(command, refused):
    make_run("w")
    refused(*command, "--gin.IPC=2", mentions=["--gin."])
