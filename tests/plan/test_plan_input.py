"""`frepo-scale plan`: odd input, what is not overwritten, and output that programs can read."""

import json
import os
import re
import stat

import pytest

from frepo_scale.main import main
from frepo_scale.plan import report
from frepo_scale.plan.check import FILE

H100 = ("--on", "h100:8")
FOLDER = ("--on", "h100:1", "--gin.DATASET=folder")
SHAPE = {
    **{"side": 8, "channels": 3, "depth": 1, "width": 4, "classes": 2, "ipc": 2},
    **{"flip": False, "ridge": 1e-6, "batch": 8},
}
ALL = "MEMBERS,POOL_SIZE,FEATURE_DTYPE,NET_DTYPE"


@pytest.fixture(autouse=True)
def cwd(tmp_path, monkeypatch):
    """An empty current folder, and a home beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(capsys, *arguments):
    """The line of a command that is refused; it prints nothing else."""
    capsys.readouterr()
    assert main(["plan", *arguments, "--quick"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("frepo-scale: ") and err.count("\n") == 1
    return err


def strict(text):
    """JSON as its standard has it: no NaN and no Infinity."""

    def no_number(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=no_number)


def planned(capsys, *arguments):
    """The plans of a command with --json."""
    capsys.readouterr()
    assert main(["plan", *arguments, "--quick", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return strict(out)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        # Sizes of the data set.
        ((*FOLDER, "--classes", "9" * 20, "--resolution", "96", "--channels", "3"), "--classes"),
        ((*FOLDER, "--classes", "5", "--resolution", "9" * 15, "--channels", "3"), "--resolution"),
        ((*FOLDER, "--classes", "5", "--resolution", "96", "--channels", "9999"), "--channels"),
        ((*FOLDER, "--classes", "5", "--resolution", "8", "--channels", "2"), "1 or 3"),
        ((*FOLDER, "--classes", "1", "--resolution", "8", "--channels", "3"), "at least 2"),
        ((*H100, "--gin.BATCH=8192"), "BATCH = 8192"),
        ((*FOLDER, "--classes", "5", "--resolution", "95", "--channels", "3"), "95x95"),
        ((*FOLDER, "--classes", "5", "--resolution", "1", "--channels", "3"), "1 px"),
        ((*FOLDER, "--classes", "5e1"), "--classes"),
        ((*FOLDER, "--classes", ""), "--classes"),
        # Prices.
        ((*H100, "--price", "inf"), "--price"),
        ((*H100, "--price", "2,5"), "--price"),
        ((*H100, "--price", ""), "--price"),
        # Numbers of devices.
        ((*H100, "--scale", "1"), "--scale 1:"),
        ((*H100, "--scale", ".."), "--scale"),
        ((*H100, "--scale", "1...8"), "--scale"),
        ((*H100, "--scale", "1..65537"), "--scale"),
        ((*H100, "--scale", "1..1e3"), "--scale"),
        ((*H100, "--scale", "1 .. 8"), "--scale"),
        ((*H100, "--scale", "\N{FULLWIDTH DIGIT ONE}..\N{FULLWIDTH DIGIT EIGHT}"), "--scale"),
        ((*H100, "--scale=-1..8"), "--scale"),
        (("--on", "cpu", "--scale", "1..8"), "--on cpu"),
        # Files.
        ((*H100, "--best", "--write", "x.txt"), "x.txt"),
        ((*H100, "--best", "--write", "x"), ".gin"),
        ((*H100, "--best", "--write", "n" * 300 + ".gin"), "cannot be written"),
        ((*H100, "--best", "--write", "gs://bucket/x.gin"), "gs://bucket/x.gin"),
        ((*H100, "--best", "--write", "~nobody-here/x.gin"), "~nobody-here/x.gin"),
        ((*H100, "--scale", "1..2", "--png", "n" * 300 + ".png"), "cannot be written"),
        ((*H100, "--scale", "1..2", "--png", "x.PNG"), ".png"),
        ((*H100, "--measured", ""), "--measured"),
        ((*H100, "--measured", "nowhere"), "nowhere"),
        # Searches.
        ((*H100, "--best", "--gin.MESH_DATA=4"), "leave --gin.MESH_DATA out"),
        ((*H100, "--best", "--gin.Mesh.pool=3"), "leave --gin.MESH_POOL out"),
        ((*H100, "--best", "--gin.Distill.chunk=64"), "leave --gin.CHUNK out"),
        ((*H100, "--best", "--may-change", "POOL_SIZE", "--gin.POOL_SIZE=4"), "--gin.POOL_SIZE"),
        ((*H100, "--best", "--may-change", "members"), "did you mean MEMBERS"),
        # Nothing is written before all of it is known to succeed.
        ((*H100, "--best", "--write", "x.gin", "--measured", "nowhere"), "nowhere"),
        ((*H100, "--best", "--write", "x.gin", "--scale", "3000..5000"), "--scale 3000..5000"),
        ((*H100, "--json", "--price", "nan"), "--price"),
        (("--on", "v5e:1x1", "--gin.Ridge.precision=float64", "--scale", "1..2"), "not known"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(arguments, named, capsys, cwd):
    assert named in refused(capsys, "digits_ipc1", *arguments)
    assert list(cwd.iterdir()) == []


def test_no_file_of_others_is_replaced(cwd, capsys):
    mine = ("--best", "--write")
    (cwd / "run.gin").write_text("include 'digits_ipc1.gin'\n")
    (cwd / "link.gin").symlink_to("run.gin")
    (cwd / "folder.gin").mkdir()
    os.mkfifo(cwd / "pipe.gin")
    for name in ("run.gin", "link.gin", "folder.gin", "pipe.gin"):
        assert f"--write {name}" in refused(capsys, "run.gin", *H100, *mine, name)
    assert (cwd / "run.gin").read_text() == "include 'digits_ipc1.gin'\n"
    assert stat.S_ISFIFO((cwd / "pipe.gin").stat().st_mode) and (cwd / "link.gin").is_symlink()
    # Its own file is: the same command again, and another one.
    for devices in ("h100:8", "h100:4"):
        planned(capsys, "run.gin", "--on", devices, *mine, "~/best.gin")
    assert "h100:4" in (cwd.parent / "home" / "best.gin").read_text()


def test_what_is_written_is_the_plan_again(cwd, capsys):
    """Also where settings were given beside it: those of the machine are written, others named."""
    given = ("--gin.BATCH=64", "--gin.CHUNK=32", "--gin.MESH_POOL=1")
    command = (*H100, "--best", "--may-change", "FEATURE_DTYPE", "--write", "x.gin", *given)
    (first,) = planned(capsys, "digits_ipc10", *command)
    assert any("--gin.BATCH" in note for note in first["notes"])
    text = (cwd / "x.gin").read_text()
    assert "--gin.BATCH" in text.splitlines()[0]
    assert set(re.findall(r"^(\w+) =", text, re.M)) == {
        *("MESH_POOL", "MESH_DATA", "CHUNK", "FEATURE_DTYPE")
    }
    (cwd / "r.gin").write_text("include 'digits_ipc10.gin'\ninclude 'x.gin'\n")
    (again,) = planned(capsys, "r.gin", *H100, "--gin.BATCH=64")
    for part in ("settings", "memory", "seconds"):
        assert again[part] == first[part]


def test_json_is_all_there_is_with_every_option(capsys, cwd):
    more = (
        "--best",
        "--may-change",
        ALL,
        "--write",
        "x.gin",
        "--scale",
        "1..2",
        "--price",
        "1e308",
    )
    (found,) = planned(capsys, "digits_ipc1", *H100, *more)
    assert found["candidates"]
    assert any("digits_ipc1_h100_scaling.png" in note for note in found["notes"])
    assert any("x.gin" in note for note in found["notes"])
    # No TPU has float64: its time is not known, and is null.
    slow = ("--gin.Ridge.precision=float64", "--best")
    both = planned(capsys, "digits_ipc1", "--on", "v5e:1x1", "--on", "h100:1", *slow)
    assert [one["hours"] is None for one in both] == [True, False]
    assert both[0]["candidates"][0]["seconds"] is None


@pytest.mark.parametrize("more", [(), ("--best",)])
def test_lines_fit_a_terminal(more, capsys):
    for recipe, devices in (("imagenet1k_ipc10", "v5e:4x4"), ("imagenet1k_ipc50", "v5e:2x2")):
        assert main(["plan", recipe, "--on", devices, "--quick", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        notes = [line for line in lines if "planned with" in line or "that would fit" in line]
        assert max(len(line) for line in lines if line not in notes) <= 80


def test_pools_that_the_files_of_frozen_nets_do_not_divide_are_left_out(capsys):
    (found,) = planned(capsys, "cifar10_ipc50_frozen", *H100, "--best", "--may-change", ALL)
    assert {one["POOL_SIZE"] % 3 for one in found["candidates"]} == {0}
    large = ("--on", "l4:1", "--gin.WIDTH=8192")
    (found,) = planned(capsys, "cifar10_ipc50_frozen", *large)
    assert not found["memory"]["fits"] and found["change"] is None


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        ("cifar10_ipc50_frozen", {"WIDTH": 640, "CHUNK": 2048}),
        ("imagenet1k_ipc10_rcig", {}),
        ("cifar100_ipc10", {"POOL_SIZE": 4096, "WIDTH": 320}),
    ],
)
def test_a_change_that_is_printed_fits(recipe, given, capsys):
    def plan(settings):
        flags = [f"--gin.{name}={value}" for name, value in settings.items()]
        return planned(capsys, recipe, "--on", "l4:1", *flags)[0]

    found = plan(given)
    assert not found["memory"]["fits"]
    assert plan(given | found["change"])["memory"]["fits"]
    if "POOL_SIZE" in found["change"]:  # no smaller than needed
        twice = found["change"] | {"POOL_SIZE": 2 * found["change"]["POOL_SIZE"]}
        assert not plan(given | twice)["memory"]["fits"]


@pytest.mark.parametrize("name", ["BATCH", "IPC", "CHUNK"])
@pytest.mark.parametrize("recipe", ["cifar10_ipc10", "imagenet1k_ipc1_rcig"])
def test_larger_settings_never_need_less(name, recipe, capsys):
    on = ("--on", "h100:1", "--on", "v5e:1x1", "--gin.MESH_POOL=1", "--gin.MESH_DATA=1")
    rows = [planned(capsys, recipe, *on, f"--gin.{name}={value}") for value in (16, 64, 1024)]
    for plans in zip(*rows, strict=True):
        memory = [one["memory"]["total"] for one in plans]
        assert memory == sorted(memory)
        if name != "CHUNK":
            seconds = [one["seconds"]["ideal"] for one in plans]
            assert seconds == sorted(seconds) and seconds[0] < seconds[-1]


def test_more_devices_need_more_memory_only_for_rows_that_fill_them_up(capsys):
    """5000 images on 32 devices are 5024 rows, on 8 none are added."""
    on = [x for count in (1, 2, 4, 8) for x in ("--on", f"h100:{count}")]
    totals = [one["memory"]["total"] for one in planned(capsys, "cifar100_ipc50", *on)]
    assert totals == sorted(totals, reverse=True) and totals[0] > totals[-1]


def test_scaling_ends_at_the_largest_pool(capsys, cwd):
    """4096 members: a weak scaling to more devices is cut off and not refused."""
    planned(capsys, "digits_ipc1", *H100, "--scale", "256..65536", "--png", "s.png")
    assert (cwd / "s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "fields",
    [
        *({"seconds": value} for value in (float("nan"), float("inf"), -1, True, "x")),
        *({"side": 0}, {"width": "x"}, {"classes": -2}, {"depth": 9}, {"ridge": -1}),
    ],
)
def test_damaged_measurements_are_refused(fields, capsys, cwd):
    seconds = fields.pop("seconds", 0.01)
    found = {"device": "NVIDIA H100 80GB HBM3", "shapes": {"a": SHAPE | fields}}
    (cwd / FILE).write_text(json.dumps(found | {"steps": {"a float32": {"seconds": seconds}}}))
    assert FILE in refused(capsys, "digits_ipc1", *H100, "--measured", ".", "--json")


@pytest.mark.parametrize(
    ("device", "used"),
    [
        ("NVIDIA L4", True),
        ("NVIDIA L40S", False),
        ("NVIDIA", False),
        ("", False),
        ("NVIDIA H100 80GB HBM3", False),
    ],
)
def test_measurements_are_of_the_same_model(device, used, capsys, cwd):
    found = {"device": device, "shapes": {"a": SHAPE}, "steps": {"a float32": {"seconds": 0.01}}}
    (cwd / FILE).write_text(json.dumps(found))
    (plan,) = planned(capsys, "digits_ipc1", "--on", "l4:1", "--measured", ".")
    assert bool(plan["measured_by_predicted"]) is used


@pytest.mark.parametrize("extra", [[], ["--best"]])
def test_a_recipe_of_the_user_from_another_folder(extra, cwd, capsys, monkeypatch):
    (cwd / "mine.gin").write_text("include 'digits_ipc10.gin'\nBATCH = 128\n")
    (cwd / "sub").mkdir()
    monkeypatch.chdir(cwd / "sub")
    (found,) = planned(capsys, "../mine.gin", *H100, *extra)
    assert found["recipe"] == "mine" and found["settings"]["MESH_DATA"] == 8
    assert list((cwd / "sub").iterdir()) == []


def test_a_series_can_be_searched(capsys):
    (found,) = planned(capsys, "cifar100_continual_5", *H100, "--best")
    assert found["memory"]["fits"] and found["candidates"]
    assert any("a series of 5 runs" in note for note in found["notes"])


def test_a_table_of_what_does_not_fit_names_the_excess(capsys):
    assert (
        main(["plan", "digits_ipc10", "--on", "l4:1", "--quick", "--best", "--gin.WIDTH=16384"])
        == 0
    )
    out = capsys.readouterr().out
    assert re.search(r"^ +1 +1 +\d+ .* does not fit, by [\d.]+ GB$", out, re.M)
    assert report._GREY not in out  # not a terminal
