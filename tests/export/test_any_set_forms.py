"""Sets of other programs in unusual but legal forms: what is read is what was meant, and said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.export.any_set import Told, read_any_set
from frepo_scale.export.formats import Export

NAMES = ("cat", "dog", "cow")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
MEAN, STD = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.25, 0.2, 0.3], np.float32)


def judged(
    path: Path,
    channels: int = 3,
    normalised: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    classes: tuple[int, ...] = (0, 1, 2),
) -> tuple[Export, str]:
    found = read_any_set(
        path, Told(None, normalised), (8, 8, channels), NAMES, np.array(classes, np.int32)
    )
    return found.export(Preprocessing(MEAN[:channels], STD[:channels], None), NAMES)


def folders(root: Path, form: Callable[[np.ndarray], Image.Image], ending: str, **how: Any) -> Path:
    for name, pixels in zip(NAMES, PIXELS, strict=True):
        (root / name).mkdir(parents=True)
        form(pixels).save(root / name / f"a{ending}", **how)
    return root


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing
    return exif


def opaque(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.full((8, 8), 255, np.uint8)])


@pytest.mark.parametrize(
    ("form", "ending", "how"),
    [
        pytest.param(Image.fromarray, ".PNG", {}, id="capitals"),
        pytest.param(Image.fromarray, ".tif", {}, id="tif"),
        pytest.param(lambda p: Image.fromarray(opaque(p)), ".png", {}, id="alpha"),
        pytest.param(
            lambda p: Image.fromarray(np.rot90(p).copy()), ".png", {"exif": turned()}, id="turned"
        ),
    ],
)
def test_image_files_are_read_as_those_of_data_sets(
    tmp_path: Path, form: Callable[[np.ndarray], Image.Image], ending: str, how: dict[str, Any]
) -> None:
    exported, _ = judged(folders(tmp_path / "set", form, ending, **how))
    np.testing.assert_array_equal(exported.to_pixels(), PIXELS)


def test_grey_files_of_a_colour_set_and_the_other_way_round(tmp_path: Path) -> None:
    grey = folders(tmp_path / "grey", lambda p: Image.fromarray(p[..., 0]), ".png")
    exported, note = judged(grey)
    np.testing.assert_array_equal(exported.to_pixels(), np.repeat(PIXELS[..., :1], 3, axis=-1))
    assert "3 of them grey" in note
    same = folders(tmp_path / "same", lambda p: Image.fromarray(p[..., [0, 0, 0]]), ".png")
    exported, note = judged(same, channels=1)
    np.testing.assert_array_equal(exported.to_pixels(), PIXELS[..., :1])
    assert "3 of them in colour" in note


def test_labels_of_image_files_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", Image.fromarray, ".png")  # cat, cow, dog: 0, 2, 1
    soft = np.array([[5, 1, 0], [0, 1, 5], [6, 5, 0]], np.float32)  # of the dog another is largest
    np.save(tmp_path / "soft.npy", soft)
    found = read_any_set(root, Told(tmp_path / "soft.npy"), (8, 8, 3), NAMES, np.arange(3))
    np.testing.assert_array_equal(found.images, PIXELS)
    np.testing.assert_array_equal(found.labels, soft[[0, 2, 1]])
    assert found.hard_labels.tolist() == [0, 1, 2]
    for wrong in (soft[[0, 2, 1]], np.arange(3)):  # in the order of the classes
        np.save(tmp_path / "wrong.npy", wrong)
        with pytest.raises(InputError) as refused:
            read_any_set(root, Told(tmp_path / "wrong.npy"), (8, 8, 3), NAMES, np.arange(3))
        assert "wrong.npy" in refused.value.what and "sorted by name" in refused.value.expected


def test_dark_images_of_16_bits_are_said(tmp_path: Path) -> None:
    deep = folders(
        tmp_path / "set", lambda p: Image.fromarray(p[..., 0].astype(np.uint16) * 16), ".png"
    )
    assert "16 bits" in judged(deep, channels=1)[1]


def test_an_image_file_starts_no_other_program(tmp_path: Path) -> None:
    """Pillow gives PostScript to Ghostscript, whatever the name of the file."""
    root = folders(tmp_path / "set", Image.fromarray, ".png")
    (root / "dog" / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(InputError) as refused:
        judged(root)
    assert "a.png" in refused.value.what and "format" in refused.value.what


def test_a_normalisation_in_units_of_255_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", images=(PIXELS / 255 - MEAN) / STD, labels=np.arange(3))
    with pytest.raises(InputError) as refused:
        judged(tmp_path / "n.npz", normalised=((127.5, 102, 76.5), (63.75, 51, 76.5)))
    assert "255" in refused.value.fix  # and with the numbers divided by 255:
    exported, note = judged(tmp_path / "n.npz", normalised=((0.5, 0.4, 0.3), (0.25, 0.2, 0.3)))
    np.testing.assert_array_equal(exported.to_pixels(), PIXELS)
    assert "0 % outside" in note
    np.savez(tmp_path / "b.npz", images=PIXELS, labels=np.arange(3))
    with pytest.raises(InputError) as refused:
        judged(tmp_path / "b.npz", normalised=((0.5,), (0.25,)))
    assert "--normalised" in refused.value.fix
    np.testing.assert_array_equal(judged(tmp_path / "b.npz")[0].to_pixels(), PIXELS)


def test_images_from_minus_1_to_1_are_not_guessed_at(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS / 127.5 - 1, labels=np.arange(3))
    with pytest.raises(InputError) as refused:
        judged(tmp_path / "x.npz")
    assert "--normalised 0.5 0.5" in refused.value.fix
    exported, _ = judged(tmp_path / "x.npz", normalised=((0.5,), (0.5,)))
    np.testing.assert_array_equal(exported.to_pixels(), PIXELS)


def test_a_set_of_some_classes_is_told_how_to_say_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS[::2], labels=np.array([0, 2]))
    with pytest.raises(InputError) as refused:
        judged(tmp_path / "x.npz")
    assert refused.value.fix.endswith("--gin.CLASSES=0,2")
    exported, _ = judged(tmp_path / "x.npz", classes=(0, 2))
    assert exported.hard_labels.tolist() == [0, 2]


def test_the_names_in_a_file_of_pytorch_are_listed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"x": torch.from_numpy(PIXELS), "y": torch.arange(3)}, tmp_path / "x.pt")
    with pytest.raises(InputError) as refused:
        judged(tmp_path / "x.pt")
    assert "'x', 'y'" in refused.value.what and "torch.save" in refused.value.fix
