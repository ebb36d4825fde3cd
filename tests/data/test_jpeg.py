import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frepo_scale.data.jpeg import JpegHead, ordinary_head


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


PLAIN = jpeg()


def with_segment(marker: int, body: bytes, data: bytes = PLAIN) -> bytes:
    """Behind the start of the file."""
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"comment": b"a photograph"},
        {"icc_profile": b"profile" * 20000},  # in several segments
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_files(mode: str, options: dict[str, Any]) -> None:
    assert ordinary_head(jpeg(mode, **options)) == JpegHead(30, 41, mode == "L")


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("tag", [0x0112, 0x010F])
def test_what_may_be_turned(order: Any, tag: int) -> None:
    mark = b"II*\0" if order == "little" else b"MM\0*"
    count = (1).to_bytes(2, order)
    entry = tag.to_bytes(2, order) + b"".join(n.to_bytes(s, order) for n, s in ((3, 2), (1, 4)))
    exif = b"Exif\0\0" + mark + (8).to_bytes(4, order) + count + entry + count + bytes(6)
    head = ordinary_head(with_segment(0xE1, exif))
    assert head == JpegHead(30, 41, False, tag == 0x0112)


def test_an_orientation_in_xmp() -> None:
    for text, turned in ((b'tiff:Orientation="6"', True), (b'dc:title="x"', False)):
        data = with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x " + text + b"/>")
        head = ordinary_head(data)
        assert head is not None and head.perhaps_turned == turned


def test_everything_else_is_left_to_pillow() -> None:
    frame = PLAIN.index(b"\xff\xc0")
    twelve_bits, without_height = bytearray(PLAIN), bytearray(PLAIN)
    twelve_bits[frame + 4] = 12
    without_height[frame + 5 : frame + 7] = b"\0\0"
    for data in (
        b"",
        b"\x89PNG",
        jpeg("CMYK"),
        with_segment(0xEE, b"Adobe\0d\0\0\0\0\0"),
        with_segment(0xE2, b"MPF\0"),  # several pictures
        with_segment(0xE5, b"?"),
        bytes(twelve_bits),
        bytes(without_height),
        PLAIN[: frame + 6],
        PLAIN.replace(b"\xff\xc0", b"\xff\xc9"),  # arithmetic coding
        PLAIN[:frame] + PLAIN[PLAIN.index(b"\xff\xda") :],  # no frame
    ):
        assert ordinary_head(data) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(PLAIN)), st.integers(2, 700), st.binary(max_size=4))
def test_whatever_is_told_of_damaged_files_is_what_pillow_finds(
    cut: int, at: int, noise: bytes
) -> None:
    for data in (PLAIN[:cut], PLAIN[:at] + noise + PLAIN[at + len(noise) :]):
        head = ordinary_head(data)
        if head is None:
            continue
        try:
            opened = Image.open(io.BytesIO(data))
        except (OSError, SyntaxError):
            continue
        assert (opened.height, opened.width) == head[:2]
        assert opened.mode == ("L" if head.grey else "RGB")
