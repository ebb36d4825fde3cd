"""Small sources of images of every form, and preparing them without a command line."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st
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


def damaged(data, good: bytes, kinds: tuple[str, ...]) -> bytes:
    """A file cut, with a bit flipped, with two blocks or two ranges of bytes exchanged.

    Ranges are in different blocks and at different offsets within them: exchanging whole headers of
    a tar gives an intact tar, which cannot be detected.
    """
    kind = data.draw(st.sampled_from(kinds))
    bad = bytearray(good)
    first = data.draw(st.integers(0, len(good) - 1))
    if kind == "cut":
        return bytes(bad[:first])
    if kind == "flip":
        bad[first] ^= 1 << data.draw(st.integers(0, 7))
        return bytes(bad)
    second = data.draw(st.integers(0, len(good) - 1))
    if kind == "blocks":
        first, second, size = first // 512 * 512, second // 512 * 512, 512
    else:
        assume(first // 512 != second // 512 and (first - second) % 512)
        size = data.draw(st.integers(1, 600))
    first, second = sorted((first, second))
    size = min(size, second - first, len(good) - second)
    one, other = slice(first, first + size), slice(second, second + size)
    bad[one], bad[other] = bad[other], bad[one]
    return bytes(bad)


def misplaced(listing, originals: dict[str, bytes]) -> list[str]:
    """Training images that have the bytes of an image of another class.

    `originals` are by "<class>/<file>", each longer than any damage and different from its first
    bytes on. Bytes of no image are damage within an image, which a tar cannot detect.
    """
    classes = {data: name.split("/")[0] for name, data in originals.items()}
    assert len(classes) == len(originals)
    wrong = []
    for row, name in enumerate(listing.train.names):
        part = listing.train
        with open(part.paths[part.files[row]], "rb") as file:
            file.seek(part.offsets[row])
            data = file.read(part.sizes[row])
        label = listing.class_names[part.labels[row]]
        if label != name.split("/")[0] or classes.get(data, label) != label:
            wrong.append(name)
    return wrong


def pictures(train: int, test: int, classes: tuple[str, ...] = WNIDS) -> dict[str, bytes]:
    """train/<class>/<image> and test/<class>/<image>, with these numbers per class."""
    return {
        f"{part}/{name}/{name}_{i}.JPEG": encoded(1000 * label + 2 * i + (part == "test"))
        for label, name in enumerate(classes)
        for part, count in (("train", train), ("test", test))
        for i in range(count)
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """The files below a folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def images():
    """The helpers of this file."""

    class Helpers:
        wnids = WNIDS
        encoded = staticmethod(encoded)
        tar_of = staticmethod(tar_of)
        damaged = staticmethod(damaged)
        misplaced = staticmethod(misplaced)
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
