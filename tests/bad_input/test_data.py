"""Data that are damaged, missing or something else."""

import gzip
import os
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bad_input.made import arrays
from PIL import Image

from frepo_scale.main import main


def changed(array, index, value, dtype=None):
    array = array.astype(dtype or array.dtype)
    array[index] = value
    return array


@pytest.fixture
def data(refused):
    """Refuses to distil the user's own data at a path."""

    def check(path, *settings, mentions, dataset="npz", names_path=True):
        data_dir = f"--gin.DATA_DIR={path}"
        given = ["distill", "digits_ipc1", f"--gin.DATASET={dataset}", data_dir, "--gin.BATCH=4"]
        refused(*given, *settings, mentions=[str(path), *mentions] if names_path else mentions)

    return check


def test_valid_data_are_accepted(cwd, capsys):
    np.savez("d.npz", **arrays())
    given = ["--gin.DATASET=npz", "--gin.DATA_DIR=d.npz", "--gin.BATCH=4"]
    assert main(["distill", "digits_ipc1", "--dry-run", *given]) == 0
    assert (
        "12 target, 0 held-out, 12 test images of (8, 8, 1), 3 classes" in capsys.readouterr().out
    )


SOUND = arrays()


@pytest.mark.parametrize(
    ("made", "mentions"),
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
def test_wrong_arrays(made, mentions, data):
    np.savez("d.npz", **(SOUND | made))
    data("d.npz", mentions=mentions)


def test_a_pickle_in_an_npz_is_never_executed(cwd, data):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(cwd / "executed"),)

    bomb = np.empty(12, object)
    bomb[:] = [Bomb() for _ in bomb]
    np.savez("d.npz", **(SOUND | {"x_train": bomb}))
    data("d.npz", mentions=["objects are never read"])
    assert not (cwd / "executed").exists()


def test_a_class_with_too_few_images(data):
    np.savez("d.npz", **arrays(y_train=np.repeat([0, 1, 2], [6, 1, 5])))
    before = "IPC = 2: class 1 has 1 training images"
    given = ["distill", "digits_ipc1", "--gin.DATASET=npz", "--gin.DATA_DIR=d.npz"]
    assert main([*given, "--gin.BATCH=4", "--dry-run"]) == 0
    data("d.npz", "--gin.IPC=2", mentions=[before, "use --gin.IPC=1"], names_path=False)


def test_truncated_npz(data):
    np.savez_compressed("whole.npz", **SOUND)
    whole = Path("whole.npz").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        Path("d.npz").write_bytes(whole[:size])
        data("d.npz", mentions=["intact"])


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
        data("idx", dataset="mnist", mentions=[broken.name])


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
        data(name, dataset="folder", mentions=["an intact file"])


def test_an_unreadable_image_is_named(data):
    bad = "train/dog/2.png"
    images("folder", [bad])
    data("folder", dataset="folder", mentions=[bad, "SKIP_UNREADABLE", "at most 0"])


@pytest.mark.parametrize("name", ["e.npy", "d.avif", "noextension"])
def test_a_file_among_the_images_that_is_none_is_named(name, data, capsys):
    images("folder")
    Path("folder/train/dog", name).write_bytes(b"something else")
    data("folder", dataset="folder", mentions=[f"train/dog/{name}", "SKIP_UNREADABLE=1"])
    given = ["--gin.DATASET=folder", "--gin.DATA_DIR=folder", "--gin.BATCH=4", "--gin.FIT=squash"]
    assert main(["distill", "digits_ipc1", "--dry-run", *given, "--gin.SKIP_UNREADABLE=1"]) == 0
    assert "17 entries seen = 16 images read + 1 skipped (1 not an image" in capsys.readouterr().out


def test_equal_images(data):
    np.savez("d.npz", **arrays(x_train=np.full((12, 8, 8, 1), 9, np.uint8)))
    data("d.npz", mentions=["all training images of d.npz are equal"])


def test_unreadable_images_are_left_out_and_counted_where_allowed(data, capsys):
    bad = ["train/cat/0.png", "train/dog/2.png"]
    images("folder", bad)
    data("folder", "--gin.SKIP_UNREADABLE=1", dataset="folder", mentions=["2 unreadable", bad[0]])
    given = ["--gin.DATASET=folder", "--gin.DATA_DIR=folder", "--gin.BATCH=4", "--gin.FIT=squash"]
    assert main(["distill", "digits_ipc1", "--dry-run", *given, "--gin.SKIP_UNREADABLE=2"]) == 0
    out = capsys.readouterr().out
    assert "6 target, 0 held-out, 8 test" in out
    assert "2 unreadable images skipped" in out


def test_a_path_without_data(data):
    os.mkdir("empty")
    data("empty", dataset="cifar10", mentions=["no data of a known form", "cifar-10-binary.tar.gz"])
    data("neighbour.txt", dataset="cifar10", mentions=["no data of a known form"])
    data("nowhere", dataset="cifar10", mentions=["not found at nowhere"])


def test_other_data_than_the_name_says(data):
    np.savez("d.npz", **arrays())
    data("d.npz", dataset="mnist", mentions=["all 10 classes"])
    np.savez("d.npz", **arrays(classes=10))
    data("d.npz", dataset="mnist", mentions=["8x8", "28x28"])
    data("d.npz", dataset="cifar10", mentions=["1 channels"])
