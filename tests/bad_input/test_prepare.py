"""Wrong input of prepare."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from frepo_scale.main import main


@pytest.fixture
def prepare(refused):
    """Refuses `frepo-scale prepare` at 8 pixels."""

    def check(source, *settings, mentions, out="out"):
        common = ("--source", source, "--out", out, "--resolution", 8, "--workers", 1)
        refused("prepare", *common, *settings, mentions=mentions)

    return check


def photos(folder, classes=("a", "b"), part="train"):
    for number, name in enumerate(classes):
        (folder / part / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (number, 5, 5)).save(folder / part / name / "1.png")


def test_sources_that_cannot_be_prepared(prepare, cwd):
    prepare("gone", mentions=["source gone does not exist", "ILSVRC2012"])
    prepare("neighbour.txt", mentions=["no known form"])
    (cwd / "x.tar").write_bytes(b"no tar")
    prepare("x.tar", mentions=["x.tar cannot be read"])
    photos(cwd / "p")
    (cwd / "p" / "train" / "c").mkdir()
    prepare("p", mentions=["train/c", "holds no image"])
    np.savez(
        cwd / "y.npz",
        x_train=np.zeros((3, 2, 2, 3), np.uint8),
        y_train=np.array([0, 1, -1]),
        x_test=np.zeros((1, 2, 2, 3), np.uint8),
        y_test=np.array([0]),
    )
    prepare("y.npz", mentions=["label -1"])


def test_validation_images_without_classes(prepare, cwd):
    def tar(path, files):
        with tarfile.open(path, "w") as out:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                out.addfile(entry, io.BytesIO(data))

    photos(cwd / "p", ("n01440764", "n01443537"))
    inner = {}
    for name in ("n01440764", "n01443537"):
        tar(cwd / "i.tar", {"1.png": (cwd / "p" / "train" / name / "1.png").read_bytes()})
        inner[f"{name}.tar"] = (cwd / "i.tar").read_bytes()
    (cwd / "s").mkdir()
    tar(cwd / "s" / "ILSVRC2012_img_train.tar", inner)
    tar(cwd / "s" / "ILSVRC2012_img_val.tar", {"v_1.JPEG": b"x"})
    prepare("s", mentions=["ILSVRC2012_img_val.tar has no classes: no ground truth beside it"])


def test_output_folders_that_are_refused(prepare, cwd, monkeypatch):
    photos(cwd / "p")
    prepare("p", mentions=["holds something that is not a prepared set"], out="p")
    prepare("p", mentions=["neighbour.txt is a file"], out="neighbour.txt")
    prepare("p", mentions=["gs:/b is a URL"], out="gs://b")
    prepare("p", "--skip-bad", -1, mentions=["--skip-bad = -1"])
    usage = shutil.disk_usage(cwd)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    prepare("p", mentions=["out has 10 bytes free", "expected", "bytes free; free some"])


def test_a_test_part_without_classes(prepare, cwd, capsys):
    """The message names the remedies; the last one makes a set of the training images."""
    photos(cwd / "p")
    (cwd / "p" / "val").mkdir()
    Image.new("RGB", (9, 9)).save(cwd / "p" / "val" / "1.png")
    prepare("p", mentions=["val/ has 1 image without classes", "LOC_val_solution.csv", "--no-test"])
    given = ["--source", "p", "--out", "out", "--resolution", "8", "--workers", "1", "--no-test"]
    assert main(["prepare", *given]) == 0
    assert "ignored (1 images without classes: val/)" in capsys.readouterr().out


def test_something_after_the_end_of_a_tar(prepare, cwd):
    photos(cwd / "p")
    with tarfile.open(cwd / "x.tar", "w") as out:
        out.add(cwd / "p", ".")
    size = (cwd / "x.tar").stat().st_size
    with (cwd / "x.tar").open("ab") as file:
        file.write(b"PGP" * 400)
    prepare("x.tar", mentions=["x.tar has something after its end mark", f"head -c {size} "])
