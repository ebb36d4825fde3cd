"""Wrong input: one clear line, exit code 2, and nothing on the disk is changed.

Every case goes through the command line and stops before compute is spent: the job itself is
replaced by a failure.
"""

import gzip
import io
import os
import shutil
import struct
import tarfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frepo_scale import config, run
from frepo_scale.core.identity import scientific_settings
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.export.formats import Export, read_npz, write_npz
from frepo_scale.main import main
from frepo_scale.ops.workdir import Workdir


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where the commands are started: with a neighbour, and without compute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.txt").write_text("mine")

    def spent(*arguments, **named):
        raise AssertionError("compute was spent on wrong input")

    monkeypatch.setattr(run, "Distillation", spent)
    monkeypatch.setattr(run, "final_scores", spent)
    return tmp_path


def snapshot(folder):
    """Every path below a folder with its content and time of change."""
    return {
        path.relative_to(folder): (
            path.read_bytes() if path.is_file() else None,
            path.lstat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(place, capsys):
    """Runs a command that must be refused with all of `told` in its one line."""

    def check(*arguments, told):
        before = snapshot(place)
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("frepo-scale: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        for words in told:
            assert words in err
        assert snapshot(place) == before

    return check


@pytest.fixture
def distill(refused):
    """Refuses `frepo-scale distill` of the digits with settings."""

    def check(*settings, told, workdir="w"):
        refused("distill", "digits_ipc1", "--workdir", workdir, *settings, told=told)

    return check


# Settings -------------------------------------------------------------------------------------

NO_INTS = ["1.5", "1.0", "'1'", "one", "True", "None", "nan", "1e999", "[1]", "", "-1"]
NO_FLOATS = ["-1", "-1e-9", "'1e-3'", "True", "None", "nan", "inf", "1e999", "-1e999", "[1.0]", ""]
NO_BOOLS = ["1", "0", "yes", "'True'", "true", "None", "[]"]
NO_NAMES = ["5", "None", "True", "", "'none of them'", "(1,)"]
WRONG = {
    **{
        name: [*NO_INTS, "0"]
        for name in [
            "IPC",
            "STEPS",
            "BATCH",
            "WIDTH",
            "DEPTH",
            "POOL",
            "LOG_EVERY",
            "PROBE_EVERY",
            "SAVE_EVERY",
            "EVAL_NETS",
            "PROBE_NETS",
            "MEMBERS",
            "MESH_POOL",
            "CHUNK",
            "PROBE_STEPS",
        ]
    },
    **{
        name: NO_INTS
        for name in [
            "SEED",
            "MAX_ONLINE",
            "EVAL_STEPS",
            "MESH_DATA",
            "FULL_DATA_STEPS",
            "SKIP_UNREADABLE",
        ]
    },
    "RESOLUTION": [value for value in [*NO_INTS, "0"] if value != "None"],  # None: as stored
    "RIDGE": NO_FLOATS,
    "LEARNING_RATE": [*NO_FLOATS, "0", "0.0"],
    "EVAL_LEARNING_RATE": [*NO_FLOATS, "0"],
    **{name: NO_BOOLS for name in ["FLIP", "LEARN_LABELS", "PROFILE", "FULL_DATA"]},
    **{name: NO_NAMES for name in ["NET", "NORM", "FIT", "FEATURE_DTYPE"]},
    "DATASET": [value for value in NO_NAMES if value != "(1,)"],
    "DATA_DIR": ["5", "1.5", "True", "[1]"],
}


def test_there_are_wrong_values_for_every_knob():
    assert WRONG.keys() == set(config.knobs())


@pytest.mark.parametrize("name", WRONG)
def test_wrong_types_and_ranges(name, distill):
    for value in WRONG[name]:
        # The line names the knob, or for DATASET what it is.
        told = "data set" if name == "DATASET" else f"{name} = "
        distill(f"--gin.{name}={value}", told=[told])


@pytest.mark.parametrize(
    ("binding", "value"),
    [
        ("Pool.batch", "0"),
        ("Pool.learning_rate", "-1"),
        ("Evaluation.batch", "1.5"),
        ("Ridge.form", "prime"),
        ("Ridge.precision", "float16"),
        ("Ridge.factorisation", "qr"),
        ("Ridge.block", "0"),
        ("Ridge.distribute_above", "-1"),
    ],
)
def test_wrong_values_of_bindings_without_a_knob(binding, value, distill):
    distill(f"--gin.{binding}={value}", told=[f"{binding} = "])


def test_a_seed_has_31_bits(distill):
    distill("--gin.SEED=2147483648", told=["SEED = 2147483648", "at most 2147483647"])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("IPC=134", ["IPC = 134", "class 8 has 133", "use --gin.IPC=133"]),
        ("IPC=1000000000000000000000", ["use --gin.IPC=133"]),
        ("BATCH=1373", ["BATCH = 1373", "1372 training images", "use --gin.BATCH=1372"]),
        ("WIDTH=1000000000000000000000", ["WIDTH = 1", "at most 1048576"]),
        ("MEMBERS=3", ["MEMBERS = 3 with POOL = 10", "1, 2, 5, 10"]),
        ("MESH_DATA=7", ["MESH_DATA = 7", "devices"]),
        ("DEPTH=4", ["DEPTH = 4", "8 px", "size 0", "use --gin.DEPTH=3"]),
        ("DEPTH=1000000000000", ["use --gin.DEPTH=3"]),
        ("DATASET=digitz", ["'digitz'", "did you mean digits?"]),
        ("NET=convnett", ["'convnett'", "did you mean convnet?"]),
        ("NORM=btch", ["'btch'", "did you mean batch?"]),
        ("IPCC=1", ["--gin.IPCC", "did you mean IPC"]),
        ("Pool.sise=1", ["--gin.Pool.sise", "did you mean Pool.size"]),
        ("DATA_DIR=/not/there", ["not found at /not/there", "x_train"]),
    ],
)
def test_settings_that_do_not_fit(setting, told, distill):
    distill(f"--gin.{setting}", told=told)
    distill(f"--gin.{setting}", "--dry-run", told=told)


def test_an_unknown_recipe(refused):
    refused("distill", "digits_icp1", told=["'digits_icp1'", "did you mean digits_ipc1"])


# A net of the user's own ----------------------------------------------------------------------

NETS = """
import flax.linen as nn
import jax.numpy as jnp


class Good(nn.Module):
    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images, train):
        features = nn.BatchNorm(use_running_average=not train)(images)
        features = nn.Dense(self.width)(features.reshape(len(images), -1))
        return nn.Dense(self.num_classes)(features), features


class OnlyLogits(Good):
    def __call__(self, images, train):
        return super().__call__(images, train)[0]


class Transposed(Good):
    def __call__(self, images, train):
        logits, features = super().__call__(images, train)
        return features, logits


class NoTrain(nn.Module):
    @nn.compact
    def __call__(self, images):
        return images, images


class Dropping(Good):
    @nn.compact
    def __call__(self, images, train):
        logits, features = super().__call__(images, train)
        return nn.Dropout(0.5)(logits, deterministic=not train), features


class Weightless(nn.Module):
    def __call__(self, images, train):
        return jnp.zeros((len(images), 10)), images.reshape(len(images), -1)


class Demanding(nn.Module):
    heads: int


def a_function(images, train):
    return images
"""


@pytest.fixture
def nets(place, monkeypatch):
    (place / "users_nets.py").write_text(NETS)
    (place / "broken_nets.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr("sys.dont_write_bytecode", True)


def test_a_net_of_the_users_own_works(nets, capsys):
    assert main(["distill", "digits_ipc1", "--dry-run", "--gin.NET=users_nets.Good"]) == 0
    assert "Dense_1/kernel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("users_nets.OnlyLogits", ["(logits (B, K), features (B, d))"]),
        ("users_nets.Transposed", ["returned shapes (2, 32) and (2, 10)"]),
        ("users_nets.NoTrain", ["train"]),
        ("users_nets.Dropping", ["dropout"]),
        ("users_nets.Weightless", ["no parameters"]),
        ("users_nets.Demanding", ["'heads'", "num_classes, width, depth, norm"]),
        ("users_nets.a_function", ["a subclass of flax.linen.Module"]),
        ("users_nets.Missing", ["Missing", "importable"]),
        ("users_nets", ["the dotted path"]),
        ("broken_nets.Net", ["division by zero"]),
        ("no_such_file.Net", ["no_such_file", "PYTHONPATH"]),
        (".Net", ["'.Net'"]),
        ("users_nets.", ["'users_nets.'"]),
        ("os.path", ["a subclass of flax.linen.Module"]),
    ],
)
def test_another_net_is_refused(name, told, nets, distill):
    distill(f"--gin.NET={name}", told=[f"NET = {name!r}", *told])


# Data -----------------------------------------------------------------------------------------


def arrays(classes=3, per_class=4, **changed):
    labels = np.tile(np.arange(classes), per_class)
    images = np.arange(len(labels) * 64, dtype=np.uint32).astype(np.uint8).reshape(-1, 8, 8, 1)
    return {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels} | changed


def changed(array, index, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[index] = value
    return array


@pytest.fixture
def data(refused):
    """Refuses to distil the user's own data at a path."""

    def check(path, *settings, told, dataset="npz", names_path=True):
        place = f"--gin.DATA_DIR={path}"
        given = ["distill", "digits_ipc1", f"--gin.DATASET={dataset}", place, "--gin.BATCH=4"]
        refused(*given, *settings, told=[str(path), *told] if names_path else told)

    return check


def test_sound_data_are_taken(place, capsys):
    np.savez("d.npz", **arrays())
    given = ["--gin.DATASET=npz", "--gin.DATA_DIR=d.npz", "--gin.BATCH=4"]
    assert main(["distill", "digits_ipc1", "--dry-run", *given]) == 0
    assert (
        "12 target, 0 held-out, 12 test images of (8, 8, 1), 3 classes" in capsys.readouterr().out
    )


SOUND = arrays()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"y_train": changed(SOUND["y_train"], SOUND["y_train"] == 1, 2)}, ["class 1 has no"]),
        ({"y_train": changed(SOUND["y_train"], 5, -1)}, ["label -1 of image 5", "0 to 2"]),
        ({"y_test": changed(SOUND["y_test"], 7, 3)}, ["label 3 of image 7 of the test", "0 to 2"]),
        ({"y_train": SOUND["y_train"].astype(float)}, ["y_train", "integer"]),
        ({"y_train": SOUND["y_train"][:-1]}, ["11 labels", "12"]),
        ({"x_train": changed(SOUND["x_train"] / 255, (3, 2, 1, 0), np.nan)}, ["nan", "(3, 2, 1"]),
        ({"x_test": changed(SOUND["x_train"] / 255, (3, 2, 1, 0), np.inf)}, ["inf", "x_test"]),
        ({"x_train": SOUND["x_train"] / 100}, ["floats in [0, 1]"]),
        ({"x_train": SOUND["x_train"].astype(object)}, ["x_train", "objects are never read"]),
        ({"y_train": SOUND["y_train"].astype(object)}, ["y_train", "objects are never read"]),
        ({"x_train": SOUND["x_train"][:, :, :4]}, ["squares"]),
        (
            {"x_train": SOUND["x_train"][:0], "y_train": SOUND["y_train"][:0]},
            ["train part", "empty"],
        ),
    ],
)
def test_wrong_arrays(made, told, data):
    np.savez("d.npz", **(SOUND | made))
    data("d.npz", told=told)


def test_a_pickle_in_an_npz_is_never_executed(place, data):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(place / "executed"),)

    bomb = np.empty(12, object)
    bomb[:] = [Bomb() for _ in bomb]
    np.savez("d.npz", **(SOUND | {"x_train": bomb}))
    data("d.npz", told=["objects are never read"])
    assert not (place / "executed").exists()


def test_a_class_with_too_few_images(data):
    np.savez("d.npz", **arrays(y_train=np.repeat([0, 1, 2], [6, 1, 5])))
    before = "IPC = 2: class 1 has 1 training images"
    given = ["distill", "digits_ipc1", "--gin.DATASET=npz", "--gin.DATA_DIR=d.npz"]
    assert main([*given, "--gin.BATCH=4", "--dry-run"]) == 0
    data("d.npz", "--gin.IPC=2", told=[before, "use --gin.IPC=1"], names_path=False)


def test_truncated_npz(data):
    np.savez_compressed("whole.npz", **SOUND)
    whole = Path("whole.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        Path("d.npz").write_bytes(whole[:size])
        data("d.npz", told=["intact"])


def idx(name, array):
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    Path(name).write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_truncated_gz(data):
    os.mkdir("idx")
    for part in ("train", "t10k"):
        idx(f"idx/{part}-images-idx3-ubyte.gz", np.zeros((20, 28, 28)))
        idx(f"idx/{part}-labels-idx1-ubyte.gz", np.arange(20) % 10)
    broken = Path("idx/train-images-idx3-ubyte.gz")
    whole = broken.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:size])
        data("idx", dataset="mnist", told=[broken.name])


def images(folder, broken=()):
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            inside = Path(folder, part, label)
            inside.mkdir(parents=True)
            for number in range(4):
                path = inside / f"{number}.png"
                Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(path)
                if str(path.relative_to(folder)) in broken:
                    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize("form", ["w", "w:gz"])
def test_truncated_tar(form, data):
    images("folder")
    name = "d.tar" if form == "w" else "d.tar.gz"
    with tarfile.open("whole", form) as tar:
        tar.add("folder", ".")
    whole = Path("whole").read_bytes()
    for size in (len(whole) // 2, len(whole) // 2 + 100, 100, 0):
        Path(name).write_bytes(whole[:size])
        data(name, dataset="folder", told=["an intact file"])


def test_an_unreadable_image_is_named(data):
    bad = "train/dog/2.png"
    images("folder", [bad])
    data("folder", dataset="folder", told=[bad, "SKIP_UNREADABLE", "at most 0"])


def test_unreadable_images_are_left_out_and_counted_where_allowed(data, capsys):
    bad = ["train/cat/0.png", "train/dog/2.png"]
    images("folder", bad)
    data("folder", "--gin.SKIP_UNREADABLE=1", dataset="folder", told=["2 unreadable", bad[0]])
    given = ["--gin.DATASET=folder", "--gin.DATA_DIR=folder", "--gin.BATCH=4", "--gin.FIT=squash"]
    assert main(["distill", "digits_ipc1", "--dry-run", *given, "--gin.SKIP_UNREADABLE=2"]) == 0
    out = capsys.readouterr().out
    assert "6 target, 0 held-out, 8 test" in out
    assert "2 unreadable images left out" in out


def test_a_place_without_data(data):
    os.mkdir("empty")
    data("empty", dataset="cifar10", told=["no data of a known form", "cifar-10-binary.tar.gz"])
    data("neighbour.txt", dataset="cifar10", told=["no data of a known form"])
    data("nowhere", dataset="cifar10", told=["not found at nowhere"])


def test_other_data_than_the_name_says(data):
    np.savez("d.npz", **arrays())
    data("d.npz", dataset="mnist", told=["8x8", "28x28"])
    data("d.npz", dataset="cifar10", told=["1 channels"])


# Workdirs -------------------------------------------------------------------------------------


def make_run(root, finished=True, **overrides):
    """What a run of the digits leaves, without having run."""
    recipe = config.load_recipe(config.find_recipe("digits_ipc1"), overrides)
    place = Workdir(root)
    settings = scientific_settings(recipe.config)
    place.open(settings, 0)
    place.claim(settings)
    place.config.write_text(recipe.text)
    place.operative_config.write_text(recipe.operative)
    preprocessing = Preprocessing(np.zeros(1, np.float32), np.ones(1, np.float32), None)
    np.savez(place.preprocessing, dataset="f" * 64, **preprocessing.arrays())
    if finished:
        export = Export(
            images=np.zeros((10, 8, 8, 1), np.float32),
            labels=np.eye(10, dtype=np.float32),
            hard_labels=np.arange(10, dtype=np.int32),
            class_names=tuple("0123456789"),
            preprocessing=preprocessing,
            evaluation={},
            provenance={"recipe": "digits_ipc1", "config": recipe.text},
        )
        write_npz(place.distilled, export)
    return place


def test_a_workdir_that_is_a_file(distill):
    distill(workdir="neighbour.txt", told=["neighbour.txt is a file"])


def test_a_workdir_with_something_else(place, distill):
    distill(workdir=".", told=["holds something that is not a run"])


def test_a_workdir_below_a_file(distill):
    distill(workdir="neighbour.txt/w", told=["neighbour.txt/w cannot be written"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_without_permission(place, distill):
    os.mkdir("locked", 0o500)
    distill(workdir="locked/w", told=["locked/w cannot be written"])


def test_a_workdir_with_an_impossible_name(distill):
    distill(workdir="x" * 300, told=["File name too long"])


def test_a_workdir_that_is_a_url(distill):
    distill(workdir="gs://bucket/w", told=["is a URL"])
    distill("--dry-run", workdir="gs://bucket/w", told=["is a URL"])


@pytest.mark.parametrize("workdir", ["w", "new/deep/w"])
def test_a_full_disk(workdir, distill, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30, 2**20))
    distill(workdir=workdir, told=["has 1 MiB free", "at least"])


def test_a_workdir_of_another_run_names_what_differs(distill):
    make_run("w", IPC="2", NORM="layer", SEED="5")
    for more in ([], ["--dry-run"]):
        distill(
            *more,
            told=[
                "w belongs to another run",
                "distill.ipc is 2 there and 1 here",
                "distill.seed is 5 there and 0 here",
                "net.norm is 'layer' there and 'batch' here",
            ],
        )


def test_operational_settings_may_differ(capsys):
    make_run("w", LOG_EVERY="7", SAVE_EVERY="9", PROFILE="False")
    assert main(["distill", "digits_ipc1", "--workdir", "w", "--dry-run"]) == 0


def test_a_workdir_started_with_other_data(distill):
    make_run("w")
    distill("--gin.LOG_EVERY=7", told=["data at scikit-learn are not those w was started with"])


def test_a_damaged_identity(distill):
    place = make_run("w")
    for content in (b"", b"{", b"[]", b"\xff"):
        place.identity.write_bytes(content)
        distill(told=["w/identity.json cannot be read"])


def test_a_damaged_result(refused):
    place = make_run("w")
    for content in (b"", b"{", b"[]", b"\xff"):
        place.result.write_bytes(content)
        told = ["w/result.json is damaged", "remove it"]
        refused("report", "w", told=told)
        refused("distill", "digits_ipc1", "--workdir", "w", told=told)


# evaluate, report, export -----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nowhere", "neighbour.txt", "empty", "."])
@pytest.mark.parametrize("command", [["evaluate"], ["report"], ["export", "--out", "e"]])
def test_what_is_no_run(command, target, refused):
    os.mkdir("empty")
    refused(*command, target, told=[target])


@pytest.mark.parametrize("command", [["evaluate"], ["export", "--out", "e"]])
def test_a_run_that_has_not_finished(command, refused):
    make_run("w", finished=False)
    refused(*command, "w", told=["w has no distilled.npz", "resume it"])


@pytest.mark.parametrize("command", [["evaluate"], ["export", "--out", "e"]])
def test_a_damaged_distilled_set(command, refused):
    path = make_run("w").distilled
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        refused(*command, "w", told=["w/distilled.npz", "damaged"])


@pytest.mark.parametrize(
    ("name", "command"),
    [("config.gin", "evaluate"), ("config.gin", "report"), ("operative_config.gin", "report")],
)
def test_a_damaged_configuration(name, command, refused):
    path = make_run("w").root / name
    path.write_bytes(b"\xff")
    refused(command, "w", told=[f"w/{name} cannot be read"])
    path.unlink()
    refused(command, "w", told=[name])


def test_a_configuration_that_is_no_recipe(refused):
    make_run("w").config.write_text("import os\n")
    refused("evaluate", "w", told=["an import"])


def test_evaluate_takes_only_known_settings(refused):
    make_run("w")
    refused("evaluate", "w", "--gin.EVAL_NET=2", told=["--gin.EVAL_NET", "did you mean EVAL_NETS"])
    refused("evaluate", "w", "--gin.EVAL_NETS=0", told=["EVAL_NETS = 0"])
    refused("evaluate", "w/distilled.npz", "--gin.WIDTH=0", told=["WIDTH = 0"])


def test_evaluate_on_data_of_another_shape(refused):
    make_run("w")
    np.savez("d.npz", **arrays())
    given = ["--gin.DATASET=npz", "--gin.DATA_DIR=d.npz", "--gin.BATCH=4"]
    refused("evaluate", "w", *given, told=["(8, 8, 1) images of 10 classes", "images of 3"])


@pytest.mark.parametrize("labels", [np.arange(10)[::-1], np.zeros(10)])
def test_evaluate_a_set_whose_images_are_not_class_by_class(labels, refused):
    make_run("w")
    write_npz("e.npz", replace(read_npz("w/distilled.npz"), hard_labels=labels.astype(np.int32)))
    refused("evaluate", "e.npz", told=["e.npz", "class by class"])


def test_a_run_that_lost_its_distilled_set_is_not_finished(place, monkeypatch):
    make_run("w", finished=False).result.write_text("{}")
    monkeypatch.setattr(run, "check_data", lambda place, dataset: None)
    with pytest.raises(AssertionError, match="compute was spent"):
        main(["distill", "digits_ipc1", "--workdir", "w"])


def test_a_report_has_the_name_of_the_recipe(place, capsys):
    made = make_run("w")
    assert main(["report", "w"]) == 0
    assert "<h1>w</h1>" in made.report.read_text()  # nobody said which recipe it was
    made.config.write_text("# recipe: digits_ipc1\n" + made.config.read_text())
    assert main(["report", "w"]) == 0
    assert "<h1>digits_ipc1</h1>" in made.report.read_text()


def test_an_npz_of_something_else(refused):
    np.savez("d.npz", **arrays())
    refused("evaluate", "d.npz", told=["d.npz"])


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_export_replaces_nothing(form, refused):
    make_run("w")
    given = ["export", "w", "--format", form, "--out"]
    refused(*given, "neighbour.txt", told=["neighbour.txt"])
    refused(*given, "w", told=["w"])
    refused(*given, "neighbour.txt/e", told=["cannot write neighbour.txt/e"])
    refused(*given, "gs://bucket/e", told=["a local path"])


def test_export_writes_where_nothing_is(place, capsys):
    make_run("w")
    assert main(["export", "w", "--out", "new/e.npz"]) == 0
    assert main(["export", "w", "--format", "folder", "--out", "f"]) == 0
    assert Path("new/e.npz").read_bytes() == Path("w/distilled.npz").read_bytes()
    assert len(list(Path("f").rglob("*.png"))) == 10


@pytest.mark.parametrize("command", [["report", "w"], ["export", "w", "--out", "e"]])
def test_report_and_export_take_no_settings(command, refused):
    make_run("w")
    refused(*command, "--gin.IPC=2", told=["--gin. settings with"])


@pytest.fixture
def prepare(refused):
    """Refuses `frepo-scale prepare` at 8 pixels."""

    def check(source, *settings, told, out="out"):
        common = ("--source", source, "--out", out, "--resolution", 8, "--workers", 1)
        refused("prepare", *common, *settings, told=told)

    return check


def photos(folder, classes=("a", "b"), part="train"):
    for number, name in enumerate(classes):
        (folder / part / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (number, 5, 5)).save(folder / part / name / "1.png")


def test_sources_that_cannot_be_prepared(prepare, place):
    prepare("gone", told=["source gone does not exist", "ILSVRC2012_img_train.tar"])
    prepare("neighbour.txt", told=["no known form"])
    (place / "x.tar").write_bytes(b"no tar")
    prepare("x.tar", told=["x.tar cannot be read"])
    photos(place / "p")
    (place / "p" / "train" / "c").mkdir()
    prepare("p", told=["train/c", "holds no image"])
    np.savez(
        place / "y.npz",
        x_train=np.zeros((3, 2, 2, 3), np.uint8),
        y_train=np.array([0, 1, -1]),
        x_test=np.zeros((1, 2, 2, 3), np.uint8),
        y_test=np.array([0]),
    )
    prepare("y.npz", told=["label -1"])


def test_validation_images_without_classes(prepare, place):
    def tar(path, files):
        with tarfile.open(path, "w") as out:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))

    photos(place / "p", ("n01440764", "n01443537"))
    inner = {}
    for name in ("n01440764", "n01443537"):
        tar(place / "i.tar", {"1.png": (place / "p" / "train" / name / "1.png").read_bytes()})
        inner[f"{name}.tar"] = (place / "i.tar").read_bytes()
    (place / "s").mkdir()
    tar(place / "s" / "ILSVRC2012_img_train.tar", inner)
    tar(place / "s" / "ILSVRC2012_img_val.tar", {"v_1.JPEG": b"x"})
    prepare("s", told=["ILSVRC2012_img_val.tar has no classes: no ground truth beside it"])


def test_places_that_cannot_be_prepared_into(prepare, place, monkeypatch):
    photos(place / "p")
    prepare("p", told=["holds something that is not a prepared set"], out="p")
    prepare("p", told=["neighbour.txt is a file"], out="neighbour.txt")
    prepare("p", told=["gs:/b is a URL"], out="gs://b")
    prepare("p", "--skip-bad", -1, told=["--skip-bad = -1"])
    usage = shutil.disk_usage(place)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    prepare("p", told=["out has 0 MiB free", "at least"])
