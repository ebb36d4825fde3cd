"""The advice of an error, followed literally, leads to a run that is right."""

import re

import pytest

from frepo_scale import config
from frepo_scale.core import versions
from frepo_scale.core.checks import check_bool, check_float, check_int
from frepo_scale.core.errors import InputError
from frepo_scale.evaluate.registry import check_evaluations
from frepo_scale.jobs.workdirs import MAKER_LINE, recipe_text
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.ops.goodput import Ledger
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.mesh import POOL, MeshConfig, check_sizes

RECIPE = config.find_recipe("digits_ipc1")


def followed(fix):
    """The settings that an advice says to give, by name."""
    return dict(re.findall(r"--gin\.([\w.]+)=(\S+?)[;,.]?(?:\s|$)", fix))


def value_of(given):
    """The setting STEPS, RIDGE, ... of the recipe with what was given."""
    text = config.load_recipe(RECIPE, given).operative
    return {name: re.search(rf"^{name} = (.+)$", text, re.M)[1] for name in given}


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        *[("STEPS", "1e3", "1000"), ("STEPS", "2.0", "2"), ("STEPS", "'2'", "2")],
        *[("STEPS", "'1e3'", "1000"), ("STEPS", "1_000.0", "1000")],
        *[("RIDGE", "'1e-3'", "0.001"), ("SAVE_MINUTES", "' 2 '", "2.0")],
        *[("FULL_DATA", "true", "True"), ("FULL_DATA", "'False'", "False")],
        *[("FULL_DATA", "0", "False"), ("FULL_DATA", "1.0", "True"), ("FULL_DATA", "no", "False")],
        ("Pool.batch", "1e2", "100"),
    ],
)
def test_a_value_that_is_meant_is_the_one_advised(name, given, meant):
    with pytest.raises(InputError) as refused:
        config.load_recipe(RECIPE, {name: given})
    assert followed(refused.value.fix) == {name: meant}
    assert value_of({name: meant}) == {name: meant}


@pytest.mark.parametrize(
    ("check", "value", "bounds"),
    [
        *[(check_int, value, (1, 9)) for value in (1.5, "1.5", 0.0, "10", 1e9, True, "x", None)],
        *[(check_float, value, (0.0, 9.0)) for value in ("-1", "nan", "10", "x", -1.0, True)],
        *[(check_bool, value, ()) for value in ("", "x", 2, None, [], "nope")],
    ],
)
def test_nothing_is_advised_where_nothing_is_meant(check, value, bounds):
    with pytest.raises(InputError) as refused:
        check("NAME", value, *bounds)
    assert refused.value.fix == ""


class Devices:
    """A mesh as far as its sizes are asked for."""

    def __init__(self, pool, data):
        self.shape, self.size = {POOL: pool, "data": data}, pool * data


@pytest.mark.parametrize("count", [1, 2, 6, 8, 12])
@pytest.mark.parametrize("members", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("batch", [1, 3, 7, 64, 100])
def test_the_sizes_of_a_mesh_that_are_advised_suit_it(count, members, batch):
    for pool in (p for p in range(1, count + 1) if count % p == 0):
        try:
            check_sizes(Devices(pool, count // pool), members, batch)
        except InputError as refused:
            advised = {name: int(value) for name, value in followed(refused.fix).items()}
            pool = advised.get("MESH_POOL", pool)
            data = advised.get("MESH_DATA") or count // pool
            assert pool * data == count
            try:
                check_sizes(Devices(pool, data), members, advised.get("BATCH", batch))
            except InputError as second:  # no sizes suit this batch: then the batch is next
                assert "BATCH" not in advised and "BATCH" in second.what
                assert "BATCH" in followed(second.fix)


def test_a_mesh_that_does_not_suit_the_devices():
    from frepo_scale.parallel.mesh import build_mesh

    devices = list(range(6))
    with pytest.raises(InputError) as refused:
        build_mesh(MeshConfig(pool=4, data=4), devices)
    assert followed(refused.value.fix) == {"MESH_POOL": "2", "MESH_DATA": "0"}


@pytest.mark.parametrize(
    ("names", "advised"), [("accuracy", ["accuracy"]), ("my.Own, accuracy", ["my.Own", "accuracy"])]
)
def test_a_text_of_evaluations(names, advised):
    with pytest.raises(InputError) as refused:
        check_evaluations(names)
    (text,) = re.findall(r'--gin\.EVALUATIONS="(.+)"', refused.value.fix)
    assert check_evaluations(config.parse_value(text)) == advised


def test_a_misspelt_evaluation_is_not_advised():
    with pytest.raises(InputError) as refused:
        check_evaluations("acuracy")
    assert "--gin" not in refused.value.fix and "accuracy" in refused.value.fix


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_a_depth_that_suits_the_images(side):
    with pytest.raises(InputError) as refused:
        build_net(NetConfig(depth=9, width=1), 2, (side, side, 3))
    advised = followed(refused.value.fix)
    if side == 1:
        assert "DEPTH" not in advised
    else:
        build_net(NetConfig(depth=int(advised["DEPTH"]), width=1), 2, (side, side, 3))


@pytest.mark.parametrize(
    ("free", "needed"), [(0, 1), (10, 2**20), (2**20 - 1, 2**20), (3 * 2**20 + 7, 4 * 2**20 + 9)]
)
def test_the_room_that_is_asked_for_suffices(free, needed, tmp_path, monkeypatch):
    class Usage:
        pass

    Usage.free = free
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(InputError) as refused:
        Workdir(tmp_path / "run").open({}, needed)
    there = int(re.search(r"has (\d+) MiB", refused.value.what)[1])
    asked = int(re.search(r"at least (\d+) MiB", refused.value.expected)[1])
    more = int(re.search(r"free (\d+) MiB more", refused.value.fix)[1])
    assert there < asked and asked * 2**20 >= needed
    Usage.free = free + more * 2**20
    Workdir(tmp_path / "run").open({}, needed)


@pytest.mark.parametrize("newer", [True, False])
def test_what_a_newer_version_has_written_names_it(newer, tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "version", lambda: "0.2.0")
    text = config.load_recipe(RECIPE, {}).text
    made = f"{MAKER_LINE}{'0.10.0' if newer else '0.1.0'}\n{text}"
    later = f"{made}\nPool.temperature = 3\n"
    assert config.load_text("run", made, {}).config == config.load_recipe(RECIPE, {}).config
    for overrides in ({}, {"IPC": "2"}):
        with pytest.raises(InputError) as refused:
            config.load_text("run", later, overrides)
        assert "Pool.temperature" in refused.value.what
        assert ("0.10.0" in refused.value.what and "0.10.0" in refused.value.fix) == newer
    with pytest.raises(InputError) as refused:  # an error of the user's own
        config.load_text("run", made, {"IPCC": "2"})
    assert "0.10.0" not in str(refused.value)


def test_the_workdir_of_a_newer_version_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "version", lambda: "0.2.0")
    workdir = Workdir(tmp_path)
    workdir.claim({"a": 1, "new": 2})
    Ledger(workdir.ledger).begin(0, environment={"frepo-scale": "0.3.0"})
    with pytest.raises(InputError) as refused:
        workdir.check_identity({"a": 1})
    assert "0.3.0" in refused.value.fix
    with pytest.raises(InputError) as refused:
        workdir.check_identity({"a": 2, "new": 2})
    assert "0.3.0" not in refused.value.fix


def test_an_export_names_the_version_that_made_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "frepo_scale.jobs.workdirs.read_npz",
        lambda path: type("E", (), {"provenance": {"config": "A = 1", "versions": {
            "frepo-scale": "9.0.0"}}}),
    )  # fmt: skip
    assert recipe_text(tmp_path / "x.npz") == ("x", f"{MAKER_LINE}9.0.0\nA = 1")
