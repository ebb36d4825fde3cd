import gzip
import io
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.data import loading
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.sources import SPECS, specs
from frepo_scale.data.sources.specs import spec_for
from frepo_scale.data.types import RawDataset


def load(
    name: str,
    data_dir: str | None,
    resolution: int | None = None,
    fit: str = "crop",
    skip_unreadable: int = 0,
) -> RawDataset:
    return loading.load(DataConfig(name, data_dir, resolution, fit, skip_unreadable))


RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def save_npz(path: Path, x: np.ndarray, y: np.ndarray, **other: np.ndarray) -> Path:
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | other
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def save_folder(root: Path, classes: int, size: tuple[int, int], test: str = "test") -> Path:
    for part in ("train", test):
        for label in range(classes):
            folder = root / part / f"c{label:04}"
            folder.mkdir(parents=True)
            Image.fromarray(pixels(size[1], size[0], 3)).save(folder / "1.png")
    return root


def save_idx(root: Path) -> Path:
    root.mkdir(parents=True)
    images, labels = pixels(10, 28, 28), np.arange(10, dtype=np.uint8)
    for part in ("train", "t10k"):
        for kind, array in (("images", images), ("labels", labels)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            path = root / f"{part}-{kind}-idx{array.ndim}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
    return root


def cifar10_files() -> dict[str, bytes]:
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    return {
        name: pickle.dumps({"labels": [2 * i % 10, (2 * i + 1) % 10], "data": pixels(2, 3072)}, 2)
        for i, name in enumerate(names)
    }


def test_the_specs() -> None:
    facts = {s.name: (s.num_classes, s.resolution, s.channels) for s in SPECS.values()}
    assert facts == {
        "digits": (10, 8, 1),
        "mnist": (10, 28, 1),
        "fashion_mnist": (10, 28, 1),
        "cifar10": (10, 32, 3),
        "cifar100": (100, 32, 3),
        "tiny_imagenet": (200, 64, 3),
        "imagenette": (10, 128, 3),
        "imagewoof": (10, 128, 3),
        "cub200": (200, 32, 3),
        "imagenet1k": (1000, 64, 3),
        "folder": (None, None, None),
        "npz": (None, None, None),
    }
    grey = {"digits", "mnist", "fashion_mnist"}
    assert {s.name for s in SPECS.values() if not s.augment_flip} == grey
    assert {s.name for s in SPECS.values() if not s.zca} == grey


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(
        InputError, match="'cifar_10': expected a known data set; did you mean cifar10"
    ):
        spec_for("cifar_10")
    with pytest.raises(InputError, match="known: cifar10"):
        load("???", None)


def test_digits() -> None:
    got = load("digits", None)
    assert got.train.images.shape[1:] == (8, 8, 1) and len(got.train) + len(got.test) == 1797
    assert got.train.images.dtype == np.uint8 and got.train.labels.dtype == np.int32
    assert {int(v) for v in np.unique(got.train.images)} == {round(v * 255 / 16) for v in range(17)}
    assert (got.fit, got.skipped, got.origin) == ("native", 0, "scikit-learn")
    assert got.class_names == tuple("0123456789")
    from sklearn.datasets import load_digits

    data = load_digits()
    of_three = np.flatnonzero(data.target == 3)
    test = np.rint(data.images[of_three[4::5]] * 255 / 16)
    np.testing.assert_array_equal(got.test.images[got.test.labels == 3, ..., 0], test)
    counts = np.bincount(got.train.labels) / (
        np.bincount(got.train.labels) + np.bincount(got.test.labels)
    )
    assert ((counts >= 0.79) & (counts <= 0.81)).all()


def test_digits_from_a_file(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "d.npz", pixels(10, 8, 8), np.arange(10))
    assert load("digits", str(path)).origin == str(path)


def test_idx_at_the_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_idx(tmp_path / "data" / "mnist")
    got = load("mnist", None)
    assert got.origin == "data/mnist" and got.train.images.shape == (10, 28, 28, 1)
    names = load("fashion_mnist", "data/mnist").class_names
    assert len(names) == 10 and names[9] == "Ankle boot"


def test_the_next_default_path_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "fashion_mnist").mkdir(parents=True)
    system = save_idx(tmp_path / "system")
    spec = SPECS["fashion_mnist"]
    assert spec.default_dirs[1] == "/usr/share/datasets/fashion-mnist"
    dirs = (spec.default_dirs[0], str(system))
    changed = {**SPECS, spec.name: specs.DatasetSpec(**{**vars(spec), "default_dirs": dirs})}
    monkeypatch.setattr(specs, "SPECS", changed)
    assert load("fashion_mnist", None).origin == str(system)


@pytest.mark.parametrize(
    "name", ["mnist", "cifar10", "cifar100", "tiny_imagenet", "imagenette", "imagenet1k"]
)
def test_a_missing_data_set_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = (
        f"data set '{name}' not found at data/{name}: expected .*train/<class>.*; put them there"
    )
    with pytest.raises(InputError, match=message):
        load(name, None)
    with pytest.raises(InputError, match=r"gs://b/x is a URL: expected a local path.*DATA_DIR"):
        load(name, "gs://b/x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.dat").write_bytes(b"")
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"x\.zip .*damaged"):
        load(name, "x.zip")
    for source in ("empty", "x.dat"):
        with pytest.raises(InputError, match=f"no data of a known form for '{name}' at {source}"):
            load(name, source)


@pytest.mark.parametrize("name", ["folder", "npz"])
def test_a_users_data_need_a_path(name: str) -> None:
    with pytest.raises(InputError, match=f"data set '{name}' has no default path: .*DATA_DIR=PATH"):
        load(name, None)


@pytest.mark.parametrize("form", ["folder", "tar", "archive", "unpacked", "npz", "in a folder"])
def test_cifar10_in_every_form(tmp_path: Path, form: str) -> None:
    source = tmp_path / "p"
    source.mkdir()
    if form in ("folder", "tar"):
        save_folder(source, 10, (32, 32))
        if form == "tar":
            with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
                tar.add(source, "top")
            source = tmp_path / "x.tgz"
    elif form in ("archive", "in a folder"):
        with tarfile.open(source / "cifar-10-python.tar.gz", "w:gz") as tar:
            for name, data in cifar10_files().items():
                entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        source = source if form == "in a folder" else source / "cifar-10-python.tar.gz"
    elif form == "unpacked":
        (source / "cifar-10-python.tar.gz").write_bytes(b"left beside, not read")
        for name, data in cifar10_files().items():
            (source / name).write_bytes(data)
    else:
        source = save_npz(source / "x.npz", pixels(10, 32, 32, 3), np.arange(10))
    got = load("cifar10", str(source))
    assert got.train.images.shape == (10, 32, 32, 3) and got.fit == "native"
    assert sorted(got.train.labels) == list(range(10)) and got.train.labels.dtype == np.int32
    assert got.origin.startswith(str(source)) and len(got.class_names) == 10


def test_several_archives_are_ambiguous(tmp_path: Path) -> None:
    for name in ("a.tar", "b.npz", ".c.npz"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"several archives: a\.tar, b\.npz: expected one"):
        load("cifar10", str(tmp_path))


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("x-00000.tar", "x-00001.tar"), True),
        (("a_train.npz", "a_val.npz"), True),
        (("part1.npz", "part2.npz", "part10.npz"), True),
        (("mnist.npz", "svhn.npz"), False),
    ],
)
def test_parts_of_one_set_are_not_chosen_from(
    tmp_path: Path, names: tuple[str, ...], parts: bool
) -> None:
    """One of them alone would be a run on a part of the data."""
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        load("folder", str(tmp_path))
    assert all(name in caught.value.what for name in names)
    assert ("unpack all of them" in caught.value.fix) == parts


def test_equal_images_are_refused_before_compute(tmp_path: Path) -> None:
    y = np.arange(6) % 2
    for value in (0, 7, 255):
        x = np.full((6, 4, 4, 3), value, np.uint8)
        with pytest.raises(InputError, match=f"all training images of .*{value}.npz are equal"):
            load("npz", str(save_npz(tmp_path / f"{value}.npz", x, y)))
    x[3, 1, 2, 0] = 9
    assert len(load("npz", str(save_npz(tmp_path / "x.npz", x, y))).train) == 6


def test_the_notes_of_a_load(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "d", 2, (9, 9))
    deep = np.full((9, 9), 4095, np.uint16)
    Image.fromarray(deep).save(root / "train" / "c0001" / "deep.png")
    (root / "train" / "c0001" / ".DS_Store").write_bytes(b"x")
    (root / "test" / "c0000" / "1.png").unlink()
    notes = load("folder", str(root)).notes
    assert [note for note in notes if "class c0000 has no test image" in note]
    assert [note for note in notes if "16 bits: their largest value is 4,095 of 65,535; " in note]
    assert notes[-1].startswith("5 entries seen = 4 images read + 0 skipped + 1 ignored")
    deep[:] = 65535
    Image.fromarray(deep).save(root / "train" / "c0001" / "deep.png")
    assert any(note.endswith("65,535 of 65,535") for note in load("folder", str(root)).notes)


def test_a_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_npz(tmp_path / "x.npz", pixels(2, 4, 4), np.arange(2))
    assert load("npz", "~/x.npz").origin == str(tmp_path / "x.npz")


def test_a_users_data(tmp_path: Path) -> None:
    path = str(save_npz(tmp_path / "x.npz", pixels(3, 6, 4, 3), np.array([2, 0, 1], np.uint64)))
    with pytest.raises(InputError, match=r"4x6: .* where RESOLUTION is None"):
        load("npz", path)
    got = load("npz", path, resolution=4)
    assert got.train.images.shape == (3, 4, 4, 3) and got.fit == "crop"
    assert got.class_names == ("0", "1", "2") and got.train.labels.tolist() == [2, 0, 1]
    squashed = load("npz", path, 4, "squash")
    assert squashed.fit == "squash" and (squashed.train.images != got.train.images).any()
    source = str(save_folder(tmp_path / "f", 2, (9, 9), "val"))
    assert load("folder", source).train.images.shape == (2, 9, 9, 3)
    assert load("folder", source, 9).fit == "native"
    assert load("folder", source, 5).fit == "crop"


def test_a_named_set_may_come_at_its_size_or_the_one_asked_for(tmp_path: Path) -> None:
    for side, resolution, fit in ((28, None, "native"), (28, 32, "crop"), (32, 32, "native")):
        path = save_npz(tmp_path / "x.npz", pixels(10, side, side), np.arange(10))
        got = load("mnist", str(path), resolution)
        assert got.fit == fit and got.train.images.shape[1] == (resolution or 28)
    with pytest.raises(
        InputError, match=r"images of the train part of .* are 32x32: expected 28x28"
    ):
        load("mnist", str(path))
    folder = save_folder(tmp_path / "f", 10, (33, 33))
    with pytest.raises(InputError, match=r"1\.png is 33x33: expected 32x32"):
        load("cifar10", str(folder))


def test_imagenet_takes_any_size_but_not_999_classes(tmp_path: Path) -> None:
    y = np.arange(1000)
    path = save_npz(tmp_path / "x.npz", pixels(1000, 3, 4, 3), y)
    assert load("imagenet1k", str(path)).train.images.shape == (1000, 64, 64, 3)
    source = save_folder(tmp_path / "f", 5, (3, 4))
    with pytest.raises(InputError, match="has 5 classes: expected 1000"):
        load("imagenet1k", str(source))


def test_grey_sets_in_colour_files(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "f", 10, (28, 28))
    assert load("mnist", str(source)).train.images.shape == (10, 28, 28, 1)


TEN = np.arange(10)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("mnist", {"x_train": pixels(10, 28, 28, 3)}, "has 3 channels in train and 1 in test"),
        ("cifar10", {"x_test": pixels(10, 28, 28)}, "channels: expected 3"),
        ("mnist", {"x_test": pixels(10, 28, 27)}, "test part of .* are 27x28: expected 28x28"),
        (
            "mnist",
            {"y_test": TEN + 1},
            "label 10 of image 9 of the test part of .*: expected 0 to 9",
        ),
        ("mnist", {"y_train": TEN - 1}, "label -1 of image 0 of the train part"),
        ("mnist", {"y_train": TEN % 9}, "class 9 has no training image"),
        ("npz", {"y_train": TEN // 2 * 2, "y_test": TEN // 2}, "class 1 has no training image"),
        (
            "npz",
            {"y_train": TEN + 10**15, "y_test": TEN},
            "label .* is 1000000000000009",
        ),
        ("npz", {"y_train": TEN // 2, "y_test": TEN}, "label 5 of image 5 of the test part"),
        ("npz", {"y_train": TEN * 0, "y_test": TEN * 0}, "has 1 class: expected at least 2"),
        ("npz", {"y_train": TEN.astype(np.uint64) + 2**63}, "the largest label"),
        ("npz", {"x_train": pixels(0, 28, 28), "y_train": TEN[:0]}, "train part of .* is empty"),
        ("npz", {"x_test": pixels(0, 28, 28), "y_test": TEN[:0]}, "test part of .* is empty"),
        ("npz", {"x_test": pixels(10, 28, 28, 3)}, "has 1 channels in train and 3 in test"),
        ("npz", {"x_test": pixels(10, 9, 9)}, "test part of .* are 9x9: expected 28x28"),
    ],
)
def test_wrong_arrays(tmp_path: Path, name: str, arrays: dict[str, Any], message: str) -> None:
    path = save_npz(tmp_path / "x.npz", pixels(10, 28, 28), TEN, **arrays)
    with pytest.raises(InputError, match=message):
        load(name, str(path))


def test_a_class_emptied_by_skipping_is_noticed(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "f", 3, (8, 8))
    (source / "train" / "c0001" / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match="1 unreadable images"):
        load("folder", str(source))
    with pytest.raises(InputError, match="class c0001 has no training image"):
        load("folder", str(source), skip_unreadable=1)
    Image.fromarray(pixels(8, 8, 3)).save(source / "train" / "c0001" / "2.png")
    assert load("folder", str(source), skip_unreadable=1).skipped == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 0}, "RESOLUTION = 0"),
        ({"resolution": 8.0}, r"RESOLUTION = 8\.0"),
        ({"fit": "cropped"}, "FIT = 'cropped'.*did you mean crop"),
        ({"skip_unreadable": -1}, "SKIP_UNREADABLE = -1"),
    ],
)
def test_wrong_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("digits", None, **given)


def test_every_message_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load("npz", str(tmp_path / "a\nb.npz"))
    assert "\n" not in str(caught.value)


def test_reading_needs_neither_jax_nor_tensorflow() -> None:
    code = (
        "import sys, types, frepo_scale.data.loading as s;"
        "settings = {'name': 'digits', 'directory': None, 'resolution': None, 'fit': 'crop'};"
        "s.load(types.SimpleNamespace(**settings, skip_unreadable=0));"
        "sys.exit(str([m for m in ('jax', 'tensorflow', 'torch') if m in sys.modules] or ''))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == ""
