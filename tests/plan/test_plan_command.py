"""`frepo-scale plan`: what it prints and writes, and wrong input."""

import json
import re

import pytest

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.jobs import plan as job
from frepo_scale.jobs import planner
from frepo_scale.jobs.plan_options import PlanOptions, device_counts
from frepo_scale.main import main
from frepo_scale.parallel import failures
from frepo_scale.plan import compilers, cpu
from frepo_scale.plan.cache import Compiled
from frepo_scale.plan.collectives import Collective

RECIPES = sorted(path.stem for path in config.RECIPES.glob("*.gin"))
# The hardware of the table in docs/plan.md.
TABLE = (
    *("v5e:4x4", "v5e:16x16", "v4:4x4x4", "v5p:4x4x4"),
    *("h100:8", "h100:4x8", "h100:1", "a100:8"),
)


@pytest.fixture(autouse=True)
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(*arguments):
    assert main(["plan", *arguments]) == 0


def planned(capsys, *arguments):
    """The JSON of plans."""
    capsys.readouterr()
    plan(*arguments, "--quick", "--json")
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def checked(found):
    """A plan is complete and consistent."""
    memory = found["memory"]
    parts = ("state", "batch", "temporary", "code")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert 0 < memory["state"] < memory["total"]
    assert found["seconds"]["expected"] > 0
    settings = found["settings"]
    assert settings["MESH_POOL"] * settings["MESH_DATA"] == found["devices"]
    assert settings["MEMBERS"] % settings["MESH_POOL"] == 0
    assert found["device_hours"] == pytest.approx(found["hours"] * found["devices"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_on_every_hardware(name, capsys):
    # The batch of the smoke test does not divide over 256 devices.
    larger = ["--gin.BATCH=256"] if name == "imagenet1k_smoke" else []
    on = [x for hardware in TABLE for x in ("--on", hardware)]
    found = planned(capsys, name, *on, *larger)
    assert [checked(one)["on"] for one in found] == list(TABLE)


def test_the_plan_of_a_pod_recipe(capsys):
    (found,) = planned(capsys, "imagenet1k_ipc10", "--on", "v5e:4x4", "--price", "2")
    checked(found)
    assert (found["devices"], found["hosts"], found["steps"]) == (16, 4, 500_000)
    assert found["settings"] == {
        **{"MESH_POOL": 4, "MESH_DATA": 4, "CHUNK": 256, "FEATURE_DTYPE": "float32"},
        **{"MEMBERS": 4, "POOL_SIZE": 16},
    }
    assert found["memory"]["fits"] and not found["memory"]["compiled"]
    assert found["price"] == pytest.approx(2 * found["device_hours"])
    assert found["input"]["placement"] == "stream"
    assert 16e9 < found["input"]["set_bytes"] < 17e9
    assert found["notes"] == [] and found["change"] is None


def test_what_the_compiler_refuses_is_not_the_best(capsys, monkeypatch):
    """A search goes on to the next plan; nothing is compiled here."""
    asked = []

    def refuse_the_first(one, found, settings):
        asked.append(settings)
        memory = found.memory._replace(compiled=True, temporary=1.0)
        if len(asked) == 1:
            memory = memory._replace(temporary=1e15)
        return found._replace(memory=memory)

    monkeypatch.setattr(planner.Planner, "_with_compiler", refuse_the_first)
    capsys.readouterr()
    plan("imagenet1k_ipc10", "--on", "v5e:2x4", "--best", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert len(asked) == 2 and asked[0] != asked[1]
    best = {name: found["settings"][name] for name in asked[1]}
    assert best == asked[1]
    assert found["memory"]["compiled"] and found["memory"]["fits"]
    assert not found["candidates"][-1]["fits"]


def test_collectives_are_those_of_the_plan(capsys, monkeypatch):
    """Where all that is compiled is refused, the best plan is an estimate, without collectives."""

    def refuse(one, found, settings):
        one._compiled = Compiled(None, [Collective("all-reduce", "data", 8)], 1e15, False)
        return found._replace(memory=found.memory._replace(compiled=True, temporary=1e15))

    monkeypatch.setattr(planner.Planner, "_with_compiler", refuse)
    capsys.readouterr()
    plan("imagenet1k_ipc10", "--on", "v5e:2x4", "--best", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert "3 compiled" in found["notes"][0]
    assert found["memory"]["fits"] and not found["memory"]["compiled"]
    assert "collectives" not in found


def test_a_recipe_for_another_mesh_gets_the_fastest_one_and_a_note(capsys):
    (found,) = planned(capsys, "imagenet1k_ipc10", "--on", "h100:8")
    checked(found)
    settings = found["settings"]
    (note,) = found["notes"]
    assert f"--gin.MESH_POOL={settings['MESH_POOL']} " in note
    assert f"--gin.MESH_DATA={settings['MESH_DATA']}" in note
    mesh = [f"--gin.{name}={settings[name]}" for name in ("MESH_POOL", "MESH_DATA")]
    (again,) = planned(capsys, "imagenet1k_ipc10", "--on", "h100:8", *mesh)
    assert again["seconds"] == found["seconds"] and again["notes"] == []


def test_the_text(capsys):
    plan("digits_ipc1", "--on", "h100:1", "--quick", "--price", "3")
    out, err = capsys.readouterr()
    assert err == ""
    for words in (
        "digits_ipc1 on h100:1: 1 x NVIDIA H100",
        "memory of a device, GB, estimated from shapes",
        "of 80.0 GB: fits",
        "factorisation and solves",
        "steps/s",
        "at 3 for one device and one hour",
        "images/s for each process",
    ):
        assert words in out
    plan("digits_ipc1", "--on", "l4:1", "--quick", "--gin.WIDTH=4096", "--gin.CHUNK=2048")
    out = capsys.readouterr().out
    assert re.search(r"does not fit, by [\d.]+ GB", out)
    assert "a change that would fit" in out


def test_sizes_of_a_users_data(capsys):
    given = ["--gin.DATASET=folder", "--classes", "50", "--resolution", "96", "--channels", "3"]
    (found,) = planned(capsys, "digits_ipc1", "--on", "h100:1", *given)
    checked(found)
    assert found["input"]["set_bytes"] is None


def test_the_best_plan_is_written_and_a_recipe_includes_it(capsys, cwd):
    plan("imagenet1k_ipc10", "--on", "v5e:2x4", "--quick", "--best", "--write", "mine.gin")
    out = capsys.readouterr().out
    assert "MESH_POOL" in out and "device-hours" in out
    (cwd / "run.gin").write_text("include 'imagenet1k_ipc10.gin'\ninclude 'mine.gin'\n")
    found = config.load_recipe(cwd / "run.gin", {}).config
    assert found.mesh.pool * found.mesh.data == 8
    assert found.pool.members == 4  # only the machine's part is written
    text = (cwd / "mine.gin").read_text()
    assert set(re.findall(r"^(\w+) =", text, re.M)) == {"MESH_POOL", "MESH_DATA", "CHUNK"}


def test_a_search_of_what_changes_the_algorithm(capsys, cwd):
    given = ["--best", "--may-change", "MEMBERS,POOL_SIZE,FEATURE_DTYPE", "--write", "mine.gin"]
    (found,) = planned(capsys, "digits_ipc1", "--on", "h100:8", *given)
    members = {one["MEMBERS"] for one in found["candidates"]}
    assert len(members) > 1
    assert {one["FEATURE_DTYPE"] for one in found["candidates"]} == {"float32", "bfloat16"}
    (cwd / "run.gin").write_text("include 'digits_ipc1.gin'\ninclude 'mine.gin'\n")
    loaded = config.load_recipe(cwd / "run.gin", {}).config
    assert loaded.pool.members == found["settings"]["MEMBERS"]
    assert loaded.pool.size == found["settings"]["POOL_SIZE"]


def test_the_figure_of_scaling(cwd, capsys):
    plan("digits_ipc10", "--on", "v5e:1x1", "--quick", "--scale", "1..64", "--png", "s.png")
    assert (cwd / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "s.png" in capsys.readouterr().out
    assert device_counts("1..1024") == [2**k for k in range(11)]
    assert device_counts("3..9") == [4, 8]


def test_without_a_compiler_the_command_that_installs_it_is_named(capsys, monkeypatch):
    monkeypatch.setattr(planner, "find_compiler", lambda platform: False)
    plan("digits_ipc1", "--on", "v5e:1x1", "--on", "h100:1")
    out, err = capsys.readouterr()
    assert err == ""
    assert "libtpu" in out and "tpu_compiler" in out
    assert "jax-cuda13-plugin[with-cuda]==" in out and "gpu_compiler" in out
    assert out.count("estimated from shapes") == 2


def test_the_compiler_for_gpus_is_found_before_jax_is_imported(monkeypatch, capsys):
    """JAX registers the libraries of GPUs when it is imported: later there is no Cholesky."""
    order = []
    monkeypatch.setattr(compilers, "find_compiler", order.append)
    monkeypatch.setattr(failures, "import_jax", lambda: order.append("jax"))
    assert main(["plan", "digits_ipc1", "--on", "h100:9"]) == 2
    assert order == ["gpu", "jax"]
    assert main(["plan", "digits_ipc1", "--on", "h100:9", "--quick"]) == 2
    assert order == ["gpu", "jax", "jax"]


@pytest.mark.slow
def test_this_cpu_is_measured_and_its_step_compiled(capsys, monkeypatch, cwd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cwd / "cache"))
    for name, small in {"_SIDE": 64, "_IMAGES": 8, "_BYTES": 2**16}.items():
        monkeypatch.setattr(cpu, name, small)
    tiny = ["--gin.WIDTH=4", "--gin.DEPTH=1", "--gin.BATCH=16", "--gin.POOL_SIZE=2"]
    plan("digits_ipc1", "--on", "cpu", *tiny, "--json")
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "compiling" in err
    (found,) = json.loads(out)
    checked(found)
    assert found["memory"]["compiled"]
    measured = {phase["name"]: phase["measured_seconds"] for phase in found["phases"]}
    assert measured["target features"] > 0 and measured["online step"] > 0
    assert found["seconds"]["expected"] != found["seconds"]["ideal"]
    assert found["collectives"] == []  # one device


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--on", "v5:4x4"], ["--on v5:4x4", "v5e"]),
        (["--on", "v5e:3x3"], ["--on v5e:3x3", "4x4"]),
        (["--on", "h100:9"], ["--on h100:9", "h100:4x8"]),
        (["--on", "h100:8", "--gin.MESH_POOL=3"], ["MESH_POOL = 3", "8 devices"]),
        (["--on", "h100:8", "--gin.MESH_POOL=2"], ["MESH_POOL = 2", "MEMBERS = 1"]),
        (["--on", "h100:8", "--gin.BATCH=12"], ["BATCH = 12", "8 devices"]),
        (["--on", "h100:8", "--gin.DATASET=folder"], ["--classes 50", "--resolution 96"]),
        (["--on", "h100:8", "--classes", "50"], ["--classes 50", "digits"]),
        (["--on", "h100:8", "--classes", "0"], ["--classes 0"]),
        (["--on", "h100:8", "--may-change", "CHUNK", "--best"], ["CHUNK", "MEMBERS"]),
        (["--on", "h100:8", "--may-change", "MEMBERS"], ["--best"]),
        (["--on", "h100:8", "--write", "x.gin"], ["--best"]),
        (["--on", "h100:8", "--on", "h100:1", "--best", "--write", "x.gin"], ["--on"]),
        (["--on", "h100:8", "--best", "--write", "nowhere/x.gin"], ["nowhere/x.gin"]),
        (["--on", "h100:8", "--best", "--write", "."], ["--write .", ".gin"]),
        (["--on", "h100:1", "--best", "--gin.CHUNK=8"], ["--may-change"]),
        (["--on", "h100:8", "--price", "-1"], ["--price"]),
        (["--on", "h100:8", "--price", "nan"], ["--price"]),
        (["--on", "h100:8", "--scale", "8"], ["--scale 8", "1..1024"]),
        (["--on", "h100:8", "--scale", "9..8"], ["--scale 9..8"]),
        (["--on", "h100:8", "--scale", "3..3"], ["--scale 3..3", "1..3"]),
        (["--on", "h100:8", "--scale", "0..8"], ["--scale 0..8"]),
        (["--on", "h100:8", "--batch", "8"], ["--batch"]),
        (["--on", "h100:8", "--compile", "w"], ["--compile", "--quick"]),
        (["--on", "h100:8", "--best", "--write", ""], ["--write"]),
        (["--on", "h100:8", "--scale", ""], ["--scale"]),
        (["--on", "h100:8", "--scale", "1..8", "--png", ""], ["--png"]),
        (["--on", "h100:8", "--png", "x.png"], ["--png", "--scale"]),
        (["--on", "h100:8", "--scale", "1..8", "--png", "nowhere/x.png"], ["nowhere/x.png"]),
        (["--on", "h100:8", "--scale", "1..8", "--png", "x.txt"], ["x.txt", ".png"]),
        (["--on", "h100:8", "--on", "h100:8"], ["--on h100:8"]),
        (["--on", "h100:8", "--on", "h100:4", "--scale", "1..8"], ["--scale", "--on"]),
        (["--on", "cpu:8"], ["--on cpu:8"]),
        (["--on", "h100:8", "--may-change", ",", "--best"], ["--may-change"]),
        ([], ["--on"]),
    ],
)
def test_wrong_input_is_one_line(arguments, named, capsys, cwd):
    assert main(["plan", "digits_ipc1", "--quick", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("frepo-scale: ") and err.count("\n") == 1
    for words in named:
        assert words in err
    assert list(cwd.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "workdir", "more", "named"),
    [
        ("digits_ipc1", "w", ["--best"], ["--compile with --best"]),
        ("digits_ipc1", "file", [], ["file is a file"]),
        ("digits_ipc1", "file/w", [], ["file"]),
        ("digits_ipc1", "full", [], ["full contains files"]),
        ("digits_ipc1", "", [], ["--compile"]),
        ("digits_ipc1", "http://host/w", [], ["http://host/w", "gs://"]),
        ("cifar100_continual_5", "w", [], ["series"]),
        ("digits_ipc1", "w", [], ["no compiler for GPUs", "jax-cuda13-plugin"]),
    ],
)
def test_where_no_program_can_be_left_is_said_before_compiling(
    recipe, workdir, more, named, capsys, cwd, monkeypatch
):
    monkeypatch.setattr(planner, "find_compiler", lambda platform: False)
    (cwd / "file").write_text("x")
    (cwd / "full").mkdir()
    (cwd / "full" / "x").write_text("x")
    before = sorted(cwd.rglob("*"))
    assert main(["plan", recipe, "--on", "h100:1", "--compile", workdir, *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("frepo-scale: ") and err.count("\n") == 1
    assert all(words in err for words in named)
    assert sorted(cwd.rglob("*")) == before


def test_a_write_where_nothing_fits_is_refused(cwd):
    recipe = config.load_recipe(
        config.find_recipe("digits_ipc1"), {"WIDTH": "65536", "POOL_SIZE": "64"}
    )
    with pytest.raises(InputError) as caught:
        job.plan(recipe, PlanOptions(("l4:1",), quick=True, best=True, write=cwd / "x.gin"))
    assert "no plan fits" in caught.value.what
    assert list(cwd.iterdir()) == []


def test_one_process_at_a_time_uses_the_tpu_compiler(tmp_path, monkeypatch):
    """From its first use on until the process ends."""
    import fcntl
    import threading

    path, held = tmp_path / "lock", []
    monkeypatch.setattr(compilers, "lock_path", lambda: path)
    monkeypatch.setattr(compilers, "_held", held)
    said, entered = [], threading.Event()

    def use():
        compilers.hold_compiler("tpu", said.append)
        entered.set()

    compilers.hold_compiler("gpu", said.append)
    assert held == [] and not path.exists()
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=use)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set() and len(said) == 1
    compilers.hold_compiler("tpu", said.append)  # for the next hardware: it has it
    assert len(said) == len(held) == 1
    with path.open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held.pop().close()
