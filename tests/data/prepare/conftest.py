"""Small sources of images of every form, and preparing them without a command line."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frepo_scale.data.prepare import shards
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.ops.preemption import Preemption

WNIDS = ("n01440764", "n01443537", "n02119789")


def encoded(seed: int, kind: str = "JPEG", size: tuple[int, int] = (24, 20)) -> bytes:
    """A smooth random photograph."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar with these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def pictures(train: int, test: int, classes: tuple[str, ...] = WNIDS) -> dict[str, bytes]:
    """train/<class>/<image> and test/<class>/<image>, so many of each class."""
    return {
        f"{part}/{name}/{name}_{i}.JPEG": encoded(1000 * label + 2 * i + (part == "test"))
        for label, name in enumerate(classes)
        for part, count in (("train", train), ("test", test))
        for i in range(count)
    }


def write(place: Path, files: dict[str, bytes]) -> Path:
    """The files below a folder."""
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


@pytest.fixture
def images():
    """The helpers of this file."""

    class Helpers:
        wnids = WNIDS
        encoded = staticmethod(encoded)
        tar_of = staticmethod(tar_of)
        pictures = staticmethod(pictures)
        write = staticmethod(write)

    return Helpers


@pytest.fixture
def run():
    """Prepares at 8 px with one worker."""

    def go(source: Path, out: Path, **named):
        settings = {"resolution": 8, "workers": 1} | named
        prepare(PrepareConfig(source, out, **settings), Preemption())
        return {path.name: path.read_bytes() for path in out.iterdir()}

    return go


@pytest.fixture
def small(monkeypatch):
    """Shards of ten images, so that a small source has several."""
    monkeypatch.setattr(shards, "_SMALLEST_SHARD", 10)


@pytest.fixture
def source(tmp_path, images):
    return images.write(tmp_path / "photos", images.pictures(25, 5))
