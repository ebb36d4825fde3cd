"""Wrong input of prepare."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image


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
    prepare("p", told=["out has 10 bytes free", "expected", "bytes free; free some"])
