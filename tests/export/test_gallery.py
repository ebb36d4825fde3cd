import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from frepo_scale.core.errors import InputError
from frepo_scale.export.gallery import _shorten, save_gallery


def flat_images(count: int, size: int, channels: int = 3) -> np.ndarray:
    """Images of one colour each; the colour tells the image's index."""
    value = np.arange(count)
    colour = np.stack([value % 100 + 1, value // 100 + 1, np.full(count, 200)], axis=-1)
    pixels = np.broadcast_to(colour[:, None, None, :channels], (count, size, size, channels))
    return pixels.astype(np.uint8)


def shown_images(path: Path) -> np.ndarray:
    """The index of the `flat_images` image at each position of a gallery, -1 for none."""
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        rgba = np.asarray(image).astype(int)
    index = (rgba[..., 1] - 1) * 100 + rgba[..., 0] - 1
    return np.where((rgba[..., 2] == 200) & (rgba[..., 3] == 255), index, -1)


def first_positions(path: Path) -> list[tuple[int, int]]:
    """(top, left) of each image, in the order of their indices."""
    index = shown_images(path)
    images, positions = np.unique(index, return_index=True)
    tops, lefts = np.unravel_index(positions[images >= 0], index.shape)
    return list(zip(tops.tolist(), lefts.tolist(), strict=True))


@pytest.mark.parametrize(
    ("classes", "ipc", "size", "shown_classes", "shown", "scale"),
    [
        (2, 1, 28, 2, 1, 3),
        (10, 1, 32, 10, 1, 3),
        (10, 10, 32, 10, 10, 3),
        (10, 50, 28, 10, 10, 3),
        (100, 1, 32, 100, 1, 3),
        (100, 10, 32, 100, 10, 2),
        (130, 1, 64, 100, 1, 1),
        (3, 2, 200, 3, 2, 1),  # larger than a cell: shown as it is
        (1, 1, 8, 1, 1, 12),
    ],
)
def test_every_image_is_shown_once_and_large(
    tmp_path: Path, classes: int, ipc: int, size: int, shown_classes: int, shown: int, scale: int
) -> None:
    pixels = flat_images(classes * ipc, size)
    names = tuple(f"class {k}" for k in range(classes))
    save_gallery(tmp_path / "g.png", pixels, names, ipc)
    expected = np.concatenate([np.arange(shown) + k * ipc for k in range(shown_classes)])
    images, counts = np.unique(shown_images(tmp_path / "g.png"), return_counts=True)
    assert images.tolist() == [-1, *expected.tolist()]
    assert (counts[1:] == (size * scale) ** 2).all()
    with Image.open(tmp_path / "g.png") as image:
        assert max(image.size) <= 2.5 * min(image.size)


def test_single_images_are_read_line_by_line(tmp_path: Path) -> None:
    save_gallery(tmp_path / "g.png", flat_images(10, 32), tuple("abcdefghij"), 1)
    positions = first_positions(tmp_path / "g.png")
    assert positions == sorted(positions)
    assert len({top for top, _ in positions}) == 2 and len({left for _, left in positions}) == 5


def test_a_class_is_one_row_and_classes_go_down(tmp_path: Path) -> None:
    save_gallery(tmp_path / "g.png", flat_images(200, 32), ("name",) * 100, 2)
    positions = np.array(first_positions(tmp_path / "g.png")).reshape(100, 2, 2)
    assert (positions[:, 0, 0] == positions[:, 1, 0]).all()
    assert (positions[:, 0, 1] < positions[:, 1, 1]).all()
    by_column = sorted((left, top) for top, left in positions[:, 0].tolist())
    assert by_column == [(left, top) for top, left in positions[:, 0].tolist()]


def test_pixels_are_enlarged_without_smoothing_in_grey_and_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        pixels = rng.integers(0, 256, (1, 32, 32, channels), dtype=np.uint8)
        save_gallery(tmp_path / "g.png", pixels, ("",), 1)
        with Image.open(tmp_path / "g.png") as image:
            rgba = np.asarray(image)
        top, left = np.argwhere(rgba[..., 3] == 255)[0]
        shown = rgba[top : top + 96, left : left + 96, :3]
        large = np.broadcast_to(pixels, (1, 32, 32, 3))[0].repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(shown, large)


def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    draw = "PIL.ImageDraw.ImageDraw.text"
    monkeypatch.setattr(draw, lambda self, xy, text, *args: texts.append(text))
    return texts


def test_names_and_what_is_left_out_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = drawn_texts(monkeypatch)
    names = ("cat", "two\nlines", *(f"class {k}" for k in range(998)))
    save_gallery(tmp_path / "g.png", flat_images(1000, 8), names, 1)
    assert texts[:3] == ["cat", "two lines", "class 0"] and len(texts) == 101
    assert texts[-1] == "first 100 of 1000 classes"
    texts.clear()
    save_gallery(tmp_path / "g.png", flat_images(40, 8), ("a", "b"), 20, max_per_class=3)
    assert texts == ["a", "b", "first 3 of 20 images per class"]
    texts.clear()
    save_gallery(tmp_path / "g.png", flat_images(10, 8), ("a", "b"), 5)
    assert texts == ["a", "b"]
    texts.clear()
    long = "a name that is far too long for one cell"
    save_gallery(tmp_path / "g.png", flat_images(1, 32), (long,), 1)
    assert texts[0].endswith("…") and len(texts[0]) > 5 and long.startswith(texts[0][:-1])


def test_names_are_drawn(tmp_path: Path) -> None:
    for name, ink in (("", False), ("cat", True)):
        save_gallery(tmp_path / "g.png", np.zeros((1, 32, 32, 1), np.uint8), (name,), 1)
        with Image.open(tmp_path / "g.png") as image:
            rgba = np.asarray(image)
        assert bool((rgba[..., :3] == (115, 122, 132)).all(axis=-1).any()) is ink


def test_shortened_names_fit() -> None:
    font = ImageFont.load_default(13)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert _shorten("short", font, 100) == "short"
    for width in range(20, 140):
        text = _shorten("a somewhat longer name", font, width)
        assert font.getlength(text) <= width and text.endswith("…") and text[-2] != " "
    assert _shorten("wide", font, 1) == "…"


def test_equal_input_gives_equal_bytes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_gallery(tmp_path / name, flat_images(4, 32), ("a", "b"), 2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_failing_in_the_middle_leaves_the_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.png"
    save_gallery(path, flat_images(1, 32), ("a",), 1)
    before, save = path.read_bytes(), Image.Image.save

    def fails_late(*args: object, **kwargs: object) -> None:
        save(*args, **kwargs)  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails_late)
    with pytest.raises(InputError, match="No space left"):
        save_gallery(path, flat_images(2, 32), ("a", "b"), 1)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["g.png"]


def test_wrong_pixels_are_refused(tmp_path: Path) -> None:
    for pixels in (flat_images(3, 8), flat_images(4, 8).astype(np.float32), flat_images(4, 8)[0]):
        with pytest.raises(ValueError, match="not 2 images for 2 classes"):
            save_gallery(tmp_path / "g.png", pixels, ("a", "b"), 2)
    assert os.listdir(tmp_path) == []
