"""Sets of other programs: what is recognised, and what is refused with one line."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.export.any_set import Told, read_any_set
from frepo_scale.export.folder import write_folder
from frepo_scale.export.formats import Export

SHAPE = (4, 5, 3)
NAMES = ("cat", "dog/wolf", "cow")
RNG = np.random.default_rng(0)
MEAN, STD = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.25, 0.2, 0.3], np.float32)
PREPROCESSING = Preprocessing(MEAN, STD, None)
PIXELS = RNG.integers(0, 256, (6, *SHAPE), dtype=np.uint8)  # two of each class
LABELS = np.array([0, 1, 2, 0, 1, 2])
ORDER = np.argsort(LABELS, kind="stable")
WANTED = PREPROCESSING.apply(PIXELS)[ORDER]  # class by class


def judged(path: Path, told: Told = Told(), shape: Any = SHAPE) -> tuple[Export, str]:  # noqa: B008
    found = read_any_set(path, told, shape, NAMES, np.arange(3))
    return found.export(PREPROCESSING, NAMES)


def save(path: Path, **changes: Any) -> Path:
    arrays = {"images": PIXELS, "labels": LABELS} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def refused(path: Path, *mentions: str, told: Told = Told()) -> InputError:  # noqa: B008
    with pytest.raises(InputError) as caught:
        judged(path, told)
    assert "\n" not in str(caught.value)
    for words in mentions:
        assert words in caught.value.what + caught.value.fix
    return caught.value


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(PIXELS, id="bytes"),
        pytest.param(PIXELS.transpose(0, 3, 1, 2), id="channels first"),
        pytest.param(PIXELS.astype(np.int64), id="integers"),
        pytest.param(PIXELS.astype(np.float64), id="floats to 255"),
        pytest.param((PIXELS / 255).astype(np.float32), id="floats to 1"),
        pytest.param(((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2), id="normalised"),
    ],
)
def test_layout_and_range_are_recognised(tmp_path: Path, images: np.ndarray) -> None:
    exported, note = judged(save(tmp_path / "a.npz", images=images))
    np.testing.assert_allclose(exported.images, WANTED, atol=1e-4)
    np.testing.assert_array_equal(exported.labels, scaled_labels(LABELS[ORDER], 3))
    np.testing.assert_array_equal(exported.hard_labels, LABELS[ORDER])
    assert ("(n, C, H, W)" in note) == (images.shape[1] == 3)
    assert "integer labels" in note


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    grey = Preprocessing(MEAN[:1], STD[:1], None)
    save(tmp_path / "a.npz", images=PIXELS[..., 0])
    found = read_any_set(tmp_path / "a.npz", Told(), (4, 5, 1), NAMES, np.arange(3))
    exported, note = found.export(grey, NAMES)
    np.testing.assert_array_equal(exported.images, grey.apply(PIXELS[..., :1])[ORDER])
    assert "(n, H, W)" in note


def test_a_normalisation_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=(PIXELS / 255 - 0.5) / 0.25)
    exported, note = judged(path, Told(normalised=((0.5,), (0.25,))))
    np.testing.assert_allclose(exported.images, WANTED, atol=1e-4)
    assert "as told" in note
    unclipped = save(tmp_path / "b.npz", images=PIXELS / 255 * 1.4 - 0.2)
    refused(unclipped, "b.npz", "--normalised 0 1")  # and the advice is right:
    exported, _ = judged(unclipped, Told(normalised=((0,), (1,))))
    wanted = PREPROCESSING.apply((PIXELS / 255 * 1.4 - 0.2) * 255)[ORDER]
    np.testing.assert_allclose(exported.images, wanted, atol=1e-4)
    for numbers in (((0.5, 0.5), (1,)), ((0.5,), (0,)), ((float("nan"),), (1,))):
        refused(path, "--normalised", told=Told(normalised=numbers))


def test_kinds_of_labels(tmp_path: Path) -> None:
    soft = RNG.normal(size=(6, 3)).astype(np.float32)
    soft[np.arange(6), LABELS] += 9
    exported, note = judged(save(tmp_path / "a.npz", labels=soft))
    np.testing.assert_array_equal(exported.labels, soft[ORDER])
    assert "used as they are" in note
    refused(save(tmp_path / "a.npz", labels=np.abs(soft) @ np.ones((3, 3)) + np.eye(3)[0]), "class")
    unclear = np.tile(np.arange(3.0), (6, 1))  # the largest is always that of the last class
    exported, _ = judged(save(tmp_path / "a.npz", labels=unclear, hard_labels=LABELS))
    np.testing.assert_array_equal(exported.hard_labels, LABELS[ORDER])
    np.testing.assert_array_equal(exported.labels, unclear)
    for hard in (LABELS[:5], LABELS + 1, LABELS * 1.5):
        refused(save(tmp_path / "a.npz", labels=unclear, hard_labels=hard), "hard_labels")
    one_hot = np.eye(3)[LABELS]
    exported, note = judged(save(tmp_path / "a.npz", labels=one_hot))
    np.testing.assert_allclose(exported.labels, scaled_labels(LABELS[ORDER], 3), atol=1e-6)
    assert "probabilities" in note
    for labels in (LABELS[:, None], LABELS.astype(np.float32), LABELS.astype(np.uint8)):
        exported, _ = judged(save(tmp_path / "a.npz", labels=labels))
        np.testing.assert_array_equal(exported.hard_labels, LABELS[ORDER])


@pytest.mark.parametrize(
    "changes",
    [
        {"images": None},
        {"images": PIXELS[:, :3]},
        {"images": PIXELS[:0], "labels": LABELS[:0]},
        {"images": PIXELS.astype(str)},
        {"images": np.where(PIXELS[0, 0, 0, 0] == PIXELS, np.nan, PIXELS)},
        {"images": np.where(PIXELS[0, 0, 0, 0] == PIXELS, np.inf, PIXELS)},
        {"images": PIXELS.astype(int) - 1000},
        {"images": PIXELS * 1000.0},
        {"images": PIXELS // 128},  # 0 and 1: black as pixels of 0 to 255
        {"images": PIXELS * 1e300},
        {"images": PIXELS.reshape(6, -1)},
        {"images": PIXELS > 100},
        {"labels": None},
        {"labels": LABELS[:5]},
        {"labels": LABELS + 1},
        {"labels": LABELS - 1},
        {"labels": LABELS + 0.5},
        {"labels": np.full(6, np.nan)},
        {"labels": np.zeros(6, int)},  # six of one class
        {"labels": np.zeros((6, 4))},
        {"labels": np.full((6, 3), np.nan)},
        {"labels": np.eye(3)[LABELS] * 1e300},  # infinite as float32
        {"labels": np.array(3)},
        {"labels": np.array(list("abcabc"))},
    ],
    ids=str,
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    refused(save(tmp_path / "a.npz", **changes), "a.npz")


def test_what_is_no_set(tmp_path: Path) -> None:
    for name in ("none.npz", "none.pt", "none"):
        refused(tmp_path / name, name)
    for name in ("text.npz", "text.pt", "text.csv"):
        (tmp_path / name).write_text("hello")
        if name != "text.pt":  # without PyTorch the error is another one
            refused(tmp_path / name, name)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty")


def test_labels_in_another_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", labels=None)
    np.save(tmp_path / "l.npy", LABELS)
    np.savez(tmp_path / "l.npz", labels=LABELS)
    for name in ("l.npy", "l.npz"):
        exported, _ = judged(path, Told(labels=tmp_path / name))
        np.testing.assert_array_equal(exported.hard_labels, LABELS[ORDER])
    np.savez(tmp_path / "other.npz", x=LABELS)
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object))
    whole = (tmp_path / "l.npy").read_bytes()
    (tmp_path / "more.npy").write_bytes(whole.replace(b"(6,), ", b"(6666666666666,), "))
    (tmp_path / "archive.npy").write_bytes((tmp_path / "l.npz").read_bytes())
    np.save(tmp_path / "scalar.npy", np.array(3))
    for name in ("other.npz", "pickle.npy", "none.npy", "more.npy", "archive.npy"):
        refused(path, name, told=Told(labels=tmp_path / name))
    refused(path, "labels ()", told=Told(labels=tmp_path / "scalar.npy"))


def test_an_array_that_declares_more_than_it_holds(tmp_path: Path) -> None:
    """Its checksum is right; numpy would reserve the memory before it reads."""
    np.savez(tmp_path / "right.npz", images=PIXELS, labels=LABELS)
    with (
        zipfile.ZipFile(tmp_path / "right.npz") as right,
        zipfile.ZipFile(tmp_path / "a.npz", "w") as wrong,
    ):
        for name in right.namelist():
            content = right.read(name).replace(b"(6, 4, 5, 3), }", b"(6, 4, 5, 3000000000), }")
            wrong.writestr(name, content)
    assert "declares" in refused(tmp_path / "a.npz", "images").what


def test_pixels_of_0_and_1_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=PIXELS // 128)
    assert "--normalised 0 1" in refused(path).fix
    exported, _ = judged(path, Told(normalised=((0,), (1,))))
    wanted = PREPROCESSING.apply(np.float32(255) * (PIXELS // 128))[ORDER]
    np.testing.assert_allclose(exported.images, wanted, atol=1e-4)


# Folders --------------------------------------------------------------------------------------


def class_folders(root: Path, names: tuple[str, ...]) -> Path:
    for image, label in zip(PIXELS, LABELS, strict=True):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{len(os.listdir(folder))}.png")
    return root


@pytest.mark.parametrize(
    "names", [("0_cat", "1_dog_wolf", "2_cow"), ("0", "1", "2"), ("00", "01", "02")]
)
def test_class_folders(tmp_path: Path, names: tuple[str, ...]) -> None:
    exported, note = judged(class_folders(tmp_path / "set", names))
    np.testing.assert_allclose(exported.images, WANTED, atol=1e-5)
    assert "6 image files in 3 class folders" in note


def test_class_folders_by_name_in_any_order(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set", ("zebra", "ape", "cow"))
    found = read_any_set(root, Told(), SHAPE, ("zebra", "ape", "cow"), np.arange(3))
    np.testing.assert_array_equal(found.images, PIXELS[ORDER])


def test_class_folders_that_are_refused(tmp_path: Path) -> None:
    refused(class_folders(tmp_path / "a", ("cat", "wolf", "cow")), "'wolf'")
    refused(class_folders(tmp_path / "b", ("1", "2", "3")), "'3'")
    root = class_folders(tmp_path / "c", ("0", "1", "2"))
    (root / "0" / "x.png").write_text("no image")
    refused(root, "x.png")
    Image.new("RGB", (9, 9)).save(root / "0" / "x.png")
    refused(root, "x.png", "9x9")
    (root / "0" / "x.png").unlink()
    (root / "0" / "0.png").unlink()
    refused(root, "1 images", "'cat'")


def test_a_folder_that_export_wrote_keeps_what_pixels_cannot_hold(tmp_path: Path) -> None:
    images = PREPROCESSING.apply(PIXELS)[ORDER] * 2  # many values beyond the range of pixels
    labels = RNG.normal(size=(6, 3)).astype(np.float32)  # the largest need not be of the class
    export = Export(images, labels, LABELS[ORDER].astype(np.int32), NAMES, PREPROCESSING, {}, {})
    write_folder(tmp_path / "set", export)
    exported, note = judged(tmp_path / "set")
    np.testing.assert_allclose(exported.images, images, atol=1e-4)
    np.testing.assert_array_equal(exported.labels, labels)
    assert "range 0 to 1" in note
    (tmp_path / "set" / "labels.csv").write_text("file,hard\nx,y,z\n")
    refused(tmp_path / "set", "labels.csv")


# PyTorch --------------------------------------------------------------------------------------


def test_a_file_of_pytorch_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pt").write_bytes(b"x")
    fix = refused(tmp_path / "a.pt", "a.pt").fix
    assert "-m pip install 'frepo-scale[torch]'" in fix and "Start locally" in fix


class Harmful:
    """Unpickled it would run code."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["HARM"],)


def test_files_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    images = torch.from_numpy(((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy())
    labels, path = torch.from_numpy(LABELS), tmp_path / "a.pt"
    learned = images.float().requires_grad_()
    for content in (
        {"images": learned, "labels": labels},
        [torch.nn.Parameter(images), labels],
        (images, labels),
        {"data": [[images, labels], [images * 0, labels]]},
    ):
        torch.save(content, path)
        exported, note = judged(path)
        np.testing.assert_allclose(exported.images, WANTED, atol=1e-4)
        assert ("the first of 2 sets" in note) == ("data" in content)
    torch.save(images.bfloat16(), path)
    torch.save(labels, tmp_path / "labels.pt")
    exported, _ = judged(path, Told(labels=tmp_path / "labels.pt"))
    np.testing.assert_allclose(exported.images, WANTED, atol=0.05)
    refused(path, "no labels", "--labels")
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    repeated = torch.zeros(1, *SHAPE).expand(10_000_000, *SHAPE)
    for content in (
        {"images": Harmful(), "labels": labels},
        {"x": 1},
        [1, 2],
        "text",
        [repeated, labels],
        [images.to_sparse(), labels],
        [images.to(torch.complex64), labels],
        [images.to("meta"), labels],
        [images, torch.tensor(3)],
    ):
        torch.save(content, path)
        refused(path, "a.pt")
    (tmp_path / "a.pt").write_text("hello")
    refused(path, "a.pt")
    assert not (tmp_path / "harm").exists()


def test_with_some_classes_the_others_have_no_images(tmp_path: Path) -> None:
    two = np.isin(LABELS, (0, 2))
    path = save(tmp_path / "x.npz", images=PIXELS[two], labels=LABELS[two])
    found = read_any_set(path, Told(), SHAPE, NAMES, np.array([0, 2]))
    assert found.hard_labels.tolist() == [0, 0, 2, 2]
    with pytest.raises(InputError) as refused:
        read_any_set(save(tmp_path / "y.npz"), Told(), SHAPE, NAMES, np.array([0, 2]))
    assert "dog/wolf" in refused.value.what and "CLASSES" in refused.value.fix


def test_images_of_16_bits_in_folders_are_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.array([[0, 1000], [30000, 65535]], np.uint16)
    for label in range(3):
        folder = tmp_path / "t" / str(label)
        folder.mkdir(parents=True)
        Image.fromarray(grey).save(folder / "1.png")
    found = read_any_set(tmp_path / "t", Told(), (2, 2, 1), NAMES, np.arange(3))
    assert found.images[0, :, :, 0].tolist() == [[0, 4], [117, 255]]
