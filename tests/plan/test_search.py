"""`frepo-scale plan --best`, advice, and what a plan says of evaluations; from the command."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from frepo_scale import config
from frepo_scale.core.identity import scientific_settings
from frepo_scale.data import pipeline
from frepo_scale.distill.config import DistillConfig
from frepo_scale.evaluate import fit
from frepo_scale.jobs import planner
from frepo_scale.jobs.ahead import flags_to_load
from frepo_scale.jobs.net_files import with_fingerprints
from frepo_scale.jobs.plan_options import GivenSizes
from frepo_scale.jobs.subject import sizes_of_data, subject_of, varied, with_settings
from frepo_scale.main import main
from frepo_scale.plan import memory, search
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.plan import make_plan, placement_of
from frepo_scale.plan.sizes import FEWEST_ITERATIONS, _iterations
from frepo_scale.plan.subject import abstract_mesh, state_bytes
from frepo_scale.regression.iterative import LONGEST
from frepo_scale.train.calls import most_steps


@pytest.fixture(autouse=True)
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys, *arguments):
    capsys.readouterr()
    assert main(["plan", *arguments, "--quick"]) == 0
    return capsys.readouterr().out


def planned(capsys, *arguments):
    (found,) = json.loads(printed(capsys, *arguments, "--json"))
    return found


# Steps fit and evaluations do not.
LARGE = (
    *("digits_ipc1", "--on", "v5e:1x1", "--gin.DATASET=folder"),
    *("--classes", "10", "--resolution", "256", "--channels", "3", "--gin.IPC=50"),
    *("--gin.WIDTH=128", "--gin.DEPTH=5", "--gin.CHUNK=16", "--gin.BATCH=64"),
    *("--gin.POOL_SIZE=2", "--gin.Pool.batch=16"),
)


def test_an_evaluation_that_does_not_fit_is_a_run_that_does_not(capsys):
    found = planned(capsys, *LARGE)
    size = found["memory"]
    assert not size["fits"] and size["excess"] == 0 and size["evaluation_excess"] > 0
    assert found["change_effects"] == ["evaluations"]
    (change,) = found["change"].items()
    assert change[0] == "Evaluation.batch"
    flag = f"--gin.{change[0]}={change[1]}"
    assert planned(capsys, *LARGE, flag)["memory"]["fits"]
    twice = planned(capsys, *LARGE, f"--gin.{change[0]}={2 * change[1]}")
    assert not twice["memory"]["fits"]  # no smaller than needed
    text = printed(capsys, *LARGE)
    assert re.search(r"total .* of 16\.9 GB: fits", text)
    assert re.search(r"evaluation .* of 16\.9 GB: does not fit, by [\d.]+ GB", text)
    assert f"{flag} (changes evaluations)" in text


def test_images_that_devices_hold_take_room(capsys):
    command = ("imagenet1k_ipc1", "--on", "l4:1")
    streamed, held = (
        planned(capsys, *command, f"--gin.DATA_PLACEMENT={placement}")["memory"]
        for placement in ("stream", "device")
    )
    assert streamed["fits"] and not held["fits"]
    room = 0.9 * held["device"]
    assert held["excess"] == pytest.approx(held["total"] + 1_331_167 * 64 * 64 * 3 - room)


def test_a_test_has_as_many_images_as_the_plan_takes_and_no_more_than_the_batch():
    assert memory._TEST_BATCH == fit._TEST_BATCH
    recipe = config.load_recipe(config.find_recipe("digits_ipc1"), {})

    def evaluation(batch):
        settings = with_settings(recipe.config, {"Evaluation.batch": batch})
        subject = subject_of("", settings, (8, 8, 1), 10)
        algorithm = subject.build(abstract_mesh(1, 1))
        return memory.beside(subject, algorithm, "memory").evaluation

    net = memory.net_facts(subject_of("", recipe.config, (8, 8, 1), 10).problem, (8, 8, 1))
    # Ten images are trained on at once; the test has more.
    assert evaluation(500) - evaluation(100) == 4 * 400 * (net.widest + 64)
    assert evaluation(1000) == evaluation(500)


@pytest.mark.parametrize(
    ("placement", "settings", "images", "batches"),
    [
        ("memory", {}, 1.0, 1.0),
        ("memory", {"whitened": True}, 5.0, 4.0),
        ("device", {"whitened": True}, 1.0, 0.0),
        ("stream", {"prepared": True}, 0.0, 1.0),
        ("stream", {"prepared": True, "workers": 3}, 0.0, 3.0),
        ("device", {"prepared": True}, 0.0, 0.0),
        ("memory", {"images": None}, 0.0, 1.0),
    ],
)
def test_the_memory_of_a_host_by_hand(placement, settings, images, batches):
    """1797 images of 64 pixels; batches of 64 rows with labels of four bytes on two hosts."""
    recipe = config.load_recipe(config.find_recipe("digits_ipc1"), {"BATCH": "64"})
    subject = replace(subject_of("", recipe.config, (8, 8, 1), 10), **settings)
    algorithm = subject.build(abstract_mesh(1, 2))
    found = memory.host_memory(subject, algorithm, placement, 2)
    assert found.images == images * 1797 * 64
    row = {0.0: 0, 1.0: 64 + 4, 3.0: 3 * (64 + 4), 4.0: 4 * 64 + 4}[batches]
    assert found.batches == (pipeline._PREFETCH + 1) * 32 * row
    beside = memory.beside(subject, algorithm, placement)
    assert found.save == beside.checkpoint / 2 and beside.save == 0
    assert beside.images == (1797 * 64 / 2 if placement == "device" else 0)
    # Ten images do not divide over four devices.
    algorithm = subject.build(abstract_mesh(1, 4))
    found = memory.beside(subject, algorithm, placement)
    assert found.save == state_bytes(subject, algorithm)[0] + 4 * 4 * 10 * (64 + 10)


def test_advice_names_what_it_changes_and_no_larger_chunk(capsys):
    tight = ("imagenette_ipc10", "--on", "v5e:4x4", "--gin.WIDTH=256", "--gin.IPC=50")
    found = planned(capsys, *tight, "--gin.CHUNK=32")
    assert not found["memory"]["fits"] and found["change"].get("CHUNK", 0) <= 32
    flags = [f"--gin.{name}={value}" for name, value in found["change"].items()]
    assert planned(capsys, *tight, "--gin.CHUNK=32", *flags)["memory"]["fits"]
    recipe = config.load_recipe(config.find_recipe("digits_ipc1"), {"CHUNK": "32"})
    vary = varied("", recipe.config, (8, 8, 1), 10)
    plan = make_plan(vary({}), parse_hardware("l4:1"), 1, 1)
    assert all("CHUNK" not in change for change in search._changes(vary, plan))
    assert search.advice({"CHUNK": 64, "MESH_POOL": 1}) == "--gin.CHUNK=64 --gin.MESH_POOL=1"
    for name in ("POOL_SIZE", "FEATURE_DTYPE", "NET_DTYPE"):
        assert search.advice({name: 5}).endswith("(changes the algorithm)")
    assert search.advice({"POOL_SIZE": 5, "Evaluation.batch": 8}).endswith(
        "(changes the algorithm and evaluations)"
    )


@pytest.mark.parametrize("chunk", [256, 96])
def test_the_chunk_of_the_recipe_stays_where_no_other_is_known_to_be_better(chunk, capsys, cwd):
    (cwd / "r.gin").write_text(f"include 'imagenet1k_ipc50.gin'\nCHUNK = {chunk}\n")
    found = planned(capsys, "r.gin", "--on", "h100:8", "--best", "--write", "x.gin")
    assert found["settings"]["CHUNK"] == chunk
    assert f"CHUNK = {chunk}" in (cwd / "x.gin").read_text()


def test_chunks_are_tried_from_the_recipes_own_downwards():
    own = DistillConfig().chunk
    found = sorted({*search.CHUNKS, own}, key=lambda chunk: search.preferred(chunk, own))
    assert found[0] == own
    smaller = [chunk for chunk in found if chunk < own]
    assert found[1 : 1 + len(smaller)] == sorted(smaller, reverse=True)


def test_with_more_members_there_are_fewer_steps(capsys, cwd):
    command = ("imagenet1k_ipc10", "--on", "v5e:4x4", "--best", "--may-change", "MEMBERS")
    found = planned(capsys, *command, "--write", "x.gin")
    plain = planned(capsys, *command[:3])
    members = found["settings"]["MEMBERS"]
    assert {one["MEMBERS"] * one["STEPS"] for one in found["candidates"]} == {4 * 500_000}
    assert found["steps"] * members == 4 * 500_000
    assert f"\nSTEPS = {found['steps']}\n" in (cwd / "x.gin").read_text()
    assert found["hours"] <= plain["hours"]
    hours = [one["hours"] for one in found["candidates"] if one["fits"]]
    assert hours == sorted(hours)
    given = planned(capsys, *command, "--gin.STEPS=1000")
    assert given["steps"] == 1000 and "STEPS" not in given["candidates"][0]


def test_what_does_not_fit_is_shown_and_counted(capsys):
    command = ("imagenet1k_ipc10", "--on", "v5e:4x4", "--best", "--may-change", "MEMBERS,POOL_SIZE")
    candidates = planned(capsys, *command)["candidates"]
    misses = [one for one in candidates if not one["fits"]]
    assert len(candidates) - len(misses) > 12 and len(misses) > 4
    assert all(max(one["excess"], one["evaluation_excess"]) > 0 for one in misses)
    assert all(one["excess"] == one["evaluation_excess"] == 0 for one in candidates if one["fits"])
    text = printed(capsys, *command)
    assert len(re.findall(r"(does not fit, by|evaluation:) [\d.]+ GB", text)) >= 4
    # The pool costs no time: it stays as large, for its members, as the recipe has it.
    assert candidates[0]["POOL_SIZE"] == 4 * candidates[0]["MEMBERS"]
    assert f"... and {len(candidates) - len(misses) - 12} more that fit\n" in text
    assert f"... and {len(misses) - 4} more that do not fit\n" in text


def test_iterations_that_are_not_known(capsys):
    assert _iterations(1e-6, 10, relative=False) == FEWEST_ITERATIONS
    assert _iterations(0.0, 10, relative=False) == _iterations(0.0, 10, relative=True) == LONGEST
    command = ("digits_ipc1", "--on", "v5e:1x1", "--gin.RIDGE_SCALE=absolute")
    text = printed(capsys, *command)
    assert "not known for an absolute ridge" in text and "by the bound" not in text
    text = printed(capsys, *command[:3])
    assert "not known for an absolute ridge" not in text and "by the bound" in text


@pytest.mark.parametrize(
    ("name", "on", "settings", "flags"),
    [
        # Small sets are kept on GPUs, and the 16 GB of ImageNet on a large slice.
        ("digits_ipc1", "h100:1", {}, " --gin.DATA_PLACEMENT=memory"),
        ("imagenet1k_ipc50", "v5e:16x16", {}, " --gin.DATA_PLACEMENT=stream"),
        (
            *("digits_ipc1", "h100:1", {"STEPS_PER_CALL": "8"}),
            " --gin.DATA_PLACEMENT=memory --gin.STEPS_PER_CALL=0",
        ),
        ("digits_ipc1", "h100:1", {"DATA_PLACEMENT": "memory"}, ""),
        ("imagenet1k_ipc10", "v5e:4x4", {}, ""),
    ],
)
def test_the_step_that_is_kept_is_the_one_of_the_command(name, on, settings, flags):
    recipe = config.load_recipe(config.find_recipe(name), settings)
    subject = subject_of(name, recipe.config, *sizes_of_data(recipe.config, GivenSizes()))
    hardware = parse_hardware(on)
    placement = placement_of(subject, hardware)
    assert (placement == "device") == bool(flags)
    platform = hardware.chip.platform
    assert flags_to_load(subject, recipe.config.loop, placement, platform) == flags
    # With them a call takes one batch.
    given = dict(flag.removeprefix("--gin.").split("=") for flag in flags.split())
    again = config.load_recipe(config.find_recipe(name), settings | given).config
    placed = placement_of(subject_of(name, again, subject.image_shape, 2), hardware)
    assert most_steps(again.loop.steps_per_call, placed, platform) == 0


def test_a_workdir_of_a_run_with_frozen_nets_takes_its_program(capsys, cwd, monkeypatch):
    monkeypatch.setattr(planner, "find_compiler", lambda platform: False)
    names = [f"cifar10_net_{number}.safetensors" for number in range(3)]
    for name in names:
        (cwd / name).write_bytes(name.encode())
    recipe = config.load_recipe(config.find_recipe("cifar10_ipc50_frozen"), {})
    (cwd / "w").mkdir()
    known = scientific_settings(with_fingerprints(recipe).config)
    (cwd / "w" / "identity.json").write_text(json.dumps(known))
    command = ["plan", "cifar10_ipc50_frozen", "--on", "h100:1", "--compile", "w"]
    assert main(command) == 2
    assert "no compiler for GPUs" in capsys.readouterr().err  # past the check of the workdir
    (cwd / names[0]).write_bytes(b"another net")
    assert main(command) == 2
    assert "weights_sha256" in capsys.readouterr().err


def test_scaling_for_programs(capsys, cwd):
    found = planned(capsys, "digits_ipc1", "--on", "h100:8", "--scale", "1..4", "--png", "s.png")
    scaling = found["scaling"]
    assert scaling["figure"] == str(cwd / "s.png") and (cwd / "s.png").is_file()
    for name in ("strong", "weak"):
        assert [one["devices"] for one in scaling[name]] == [1, 2, 4]
    assert [one["MEMBERS"] for one in scaling["weak"]] == [1, 2, 4]
    (two,) = json.loads(printed(capsys, "digits_ipc1", "--on", "h100:2", "--json"))
    assert sum(scaling["strong"][1]["seconds"].values()) == pytest.approx(two["seconds"]["ideal"])


def test_the_table_of_the_documentation_has_every_recipe():
    lines = (Path(__file__).parents[2] / "docs" / "plan.md").read_text().splitlines()
    names = [re.sub(r" \(each of \d+\)", "", line.split(" | ")[0]) for line in lines]
    table = names[names.index("| recipe") + 2 :]
    rows = [name.removeprefix("| ") for name in table if name.startswith("| ")]
    assert rows == sorted(path.stem for path in config.RECIPES.glob("*.gin"))
