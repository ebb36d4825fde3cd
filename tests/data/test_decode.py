import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frepo_scale.data import decode
from frepo_scale.data.decode import UnreadableImage, decode_image, is_image, to_square

RGB = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def read(data: bytes, channels: int | None = 3, resolution: int | None = None) -> np.ndarray:
    return decode_image(data, "m.png", channels, resolution, "crop").pixels


def test_lossless_pixels_arrive_untouched() -> None:
    got = decode_image(encode(Image.fromarray(RGB)), "m.png", 3, 6, "crop")
    np.testing.assert_array_equal(got.pixels, RGB)
    assert (got.height, got.width, got.grey) == (6, 6, False)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF", "JPEG"])
def test_every_known_format(kind: str) -> None:
    flat = np.full((4, 5, 3), (200, 100, 50), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {}
    got = read(encode(Image.fromarray(flat), kind, **options))
    assert got.shape == (4, 5, 3) and np.abs(got.astype(int) - flat).max() <= 3


def test_grey_as_three_channels_and_colour_as_one() -> None:
    grey = RGB[..., 0]
    got = decode_image(encode(Image.fromarray(grey)), "m", None, None, "crop")
    np.testing.assert_array_equal(got.pixels, np.repeat(grey[..., None], 3, 2))
    assert got.grey
    np.testing.assert_array_equal(read(encode(Image.fromarray(grey)), 1), grey[..., None])
    one = read(encode(Image.fromarray(RGB)), 1)
    assert one.shape == (6, 6, 1)
    np.testing.assert_allclose(one[..., 0], RGB @ [0.299, 0.587, 0.114], atol=1)


def test_palette_and_cmyk() -> None:
    palette = Image.new("P", (2, 2))
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.putpixel((1, 0), 1)
    assert read(encode(palette))[0].tolist() == [[0, 0, 0], [10, 200, 30]]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = read(encode(cmyk, "JPEG", quality=95))
    assert np.abs(red.astype(int) - [255, 0, 0]).max() < 6


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = np.array([[0, 257, 25700], [65535, 128, 129]], np.uint16)
    want = [[0, 1, 100], [255, 0, 1]]
    assert read(encode(Image.fromarray(deep)), 1)[..., 0].tolist() == want
    pgm = b"P5 3 2 65535 " + deep.astype(">u2").tobytes()
    assert read(pgm, 1)[..., 0].tolist() == want
    assert decode_image(pgm, "m", None, None, "crop").grey


def test_one_bit() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    assert read(encode(image), 1)[..., 0].tolist() == [[255, 0]]


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8)
    assert read(encode(Image.fromarray(rgba))).tolist() == [[[255, 255, 255], [10, 20, 30]]]
    grey = Image.fromarray(np.array([[[10, 0], [10, 255]]], np.uint8), "LA")
    assert read(encode(grey), 1)[..., 0].tolist() == [[255, 10]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([1, 2, 3])
    assert read(encode(palette, transparency=0)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("turn", "want"),
    [
        (1, [[0, 1, 2], [3, 4, 5]]),
        (2, [[2, 1, 0], [5, 4, 3]]),
        (3, [[5, 4, 3], [2, 1, 0]]),
        (4, [[3, 4, 5], [0, 1, 2]]),
        (5, [[0, 3], [1, 4], [2, 5]]),
        (6, [[3, 0], [4, 1], [5, 2]]),
        (7, [[5, 2], [4, 1], [3, 0]]),
        (8, [[2, 5], [1, 4], [0, 3]]),
        (9, [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_exif_orientation_is_applied(turn: int, want: list[list[int]]) -> None:
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    data = encode(image, exif=exif_of(turn))
    got = decode_image(data, "m", 1, None, "crop")
    assert got.pixels[..., 0].tolist() == want
    assert (got.height, got.width) == got.pixels.shape[:2]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage!garbage"])
def test_broken_exif_leaves_the_image_as_stored(exif: bytes) -> None:
    data = encode(Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(read(data), RGB)


def test_crop_takes_the_centre() -> None:
    image = np.zeros((4, 10, 1), np.uint8)
    image[:, 3:7] = 100
    assert (to_square(image, 4, "crop") == 100).all()
    assert (to_square(image.transpose(1, 0, 2), 2, "crop") == 100).all()


def test_squash_keeps_everything() -> None:
    image = np.repeat(np.array([0, 100], np.uint8), 4)[None, :, None].repeat(2, 0)
    assert to_square(image, 2, "squash")[..., 0].tolist() == [[0, 100], [0, 100]]


@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_is_the_area_mean(channels: int) -> None:
    image = RGB[..., :channels]
    want = image.reshape(2, 3, 2, 3, channels).mean((1, 3))
    got = to_square(image, 2, "crop")
    assert got.shape == (2, 2, channels) and got.dtype == np.uint8
    assert np.abs(got - want).max() <= 0.51


def test_growing_is_smooth_and_mixed_shrinks_first() -> None:
    step = np.array([[0, 200]], np.uint8).repeat(2, 0)[..., None]
    grown = to_square(step, 8, "crop")[0, :, 0].astype(int)
    assert len(set(grown)) > 2 and (np.diff(grown) >= 0).all()  # repeated pixels would be two
    stripes = np.tile(np.array([0, 200], np.uint8), 32)[None, :, None]
    assert (to_square(stripes, 4, "squash") == 100).all()  # bilinear alone would skip pixels


def test_the_right_size_is_not_touched() -> None:
    assert to_square(RGB, 6, "crop") is RGB


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image of a known format"),
        (b"hello", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (encode(Image.fromarray(RGB), "JPEG")[:-40], "truncated"),
        (encode(Image.fromarray(RGB))[:-40], "."),
        (bomb(10_000), "10000x10000 pixels are too many"),
        (bomb(100_000), "decompression bomb"),
        (encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "floating-point"),
        (encode(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"), "beyond 16 bits"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unreadable(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason) as caught:
        decode_image(data, "train/cat/1.jpg", 3, 4, "crop")
    assert caught.value.member == "train/cat/1.jpg" and caught.value.reason
    assert " at 0x" not in caught.value.reason


def test_the_limit_is_pillows_own() -> None:
    assert decode.MAX_PIXELS == Image.MAX_IMAGE_PIXELS


JPEG = encode(Image.fromarray(RGB), "JPEG")


@settings(max_examples=200, deadline=2000)
@given(cut=st.integers(0, len(JPEG)), at=st.integers(0, len(JPEG) - 1), byte=st.integers(0, 255))
@pytest.mark.filterwarnings("ignore")
def test_damage_is_unreadable_or_an_image(cut: int, at: int, byte: int) -> None:
    changed = bytearray(JPEG)
    changed[at] = byte
    for data in (JPEG[:cut], bytes(changed)):
        try:
            got = decode_image(data, "m.jpg", 3, 4, "crop")
        except UnreadableImage:
            continue
        assert got.pixels.shape == (4, 4, 3) and got.pixels.dtype == np.uint8


def test_images_are_recognised_by_extension() -> None:
    assert all(is_image(p) for p in ("a/b.JPEG", "x.jpg", "x.Png", "a.b.tif", "x.webp", "x.pgm"))
    assert not any(
        is_image(p) for p in ("x.txt", ".DS_Store", "Thumbs.db", "._x.jpg", ".jpg", "jpg", "x.npz")
    )


def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_the_fast_decoder_gives_pillows_pixels(
    mode: str, channels: int | None, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(photo((61, 47)).convert(mode), "JPEG", **options)
    fast = decode_image(data, "m", channels, None, "crop")
    monkeypatch.setattr(decode, "_jpeg", lambda *arguments: None)
    slow = decode_image(data, "m", channels, None, "crop")
    assert (fast.pixels == slow.pixels).all() and fast.grey == slow.grey == (mode == "L")


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_what_is_not_ordinary_goes_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo((64, 64)), "JPEG")
    for cut in (len(data) // 2, len(data) - 1):
        with pytest.raises(UnreadableImage):
            decode_image(data[:cut], "m", 3, None, "crop")
    upright, turned = (
        encode(photo((64, 64)), "JPEG", exif=exif_of(orientation)) for orientation in (1, 6)
    )
    cmyk = encode(photo((64, 64)).convert("CMYK"), "JPEG")
    asked = []
    real = decode._by_pillow

    def pillow(opened: Image.Image, *arguments: Any) -> tuple[np.ndarray, bool]:
        asked.append((opened.format, opened.mode))
        return real(opened, *arguments)

    monkeypatch.setattr(decode, "_by_pillow", pillow)
    for file in (data, upright):
        decode_image(file, "m", 3, None, "crop")
    assert asked == []
    for file in (cmyk, turned, data[:-2], encode(photo((64, 64)))):
        with contextlib.suppress(UnreadableImage):  # the third of them, truncated
            decode_image(file, "m", 3, None, "crop")
    assert asked == [("JPEG", "CMYK"), ("JPEG", "RGB"), ("JPEG", "RGB"), ("PNG", "RGB")]


def test_lanczos_averages_while_it_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(to_square(stripes, 8, "crop", "lanczos")[:, 1:-1]) < 30
    assert (to_square(RGB, 6, "crop", "lanczos") == RGB).all()
    assert to_square(RGB[..., :1], 3, "squash", "lanczos").shape == (3, 3, 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_damaged_jpegs_give_the_same_as_pillow(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that the fast decoder would decode differently from Pillow, or refuse."""
    rng = np.random.default_rng(0)
    real = decode._jpeg
    good = [
        encode(photo((61, 47)).convert(mode), "JPEG", **options)
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2})
    ]
    scan = good[0].index(b"\xff\xda")
    stray = [good[0][:at] + b"\xff\x51" + good[0][at:] for at in (scan + 90, len(good[0]) - 2)]
    harmed = []
    for _ in range(120):
        data = bytearray(good[rng.integers(3)])
        at = int(rng.integers(2, len(data) - 2))
        data[at : at + rng.integers(4)] = rng.integers(0, 256, 4).astype(np.uint8).tobytes()
        harmed.append(bytes(data))
    for start in range(2, scan):  # every byte of the head
        data = bytearray(good[0])
        data[start] ^= 1 << rng.integers(8)
        harmed.append(bytes(data))
    for data in [*good, *stray, *harmed]:
        found = []
        for fast in (real, lambda *arguments: None):
            monkeypatch.setattr(decode, "_jpeg", fast)
            try:
                found.append(decode_image(data, "m", None, None, "crop").pixels.tobytes())
            except UnreadableImage:
                found.append(b"")
        assert found[0] == found[1]
    assert real(good[0]) is not None


def test_too_little_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "_jpeg", fail)
    with pytest.raises(MemoryError):
        decode_image(encode(photo((9, 9)), "JPEG"), "m", 3, 8, "crop")
