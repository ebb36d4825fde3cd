"""Bytes of an image file to a uint8 square.

Sizes: H, W as stored (after the EXIF orientation), R the resolution asked for, C channels.
Shrinking uses area averaging unless asked otherwise. Area averaging cannot enlarge (it repeats
pixels), so growing is bilinear; where one side shrinks and the other grows, the shrinking is done
first.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

import cv2
import numpy as np
from PIL import Image

# Enough for any photograph; beyond it a small file can ask for all the memory there is.
MAX_PIXELS = 89_478_485
MAX_BYTES = 256 << 20
FITS = ("crop", "squash")
FILTERS = ("area", "lanczos")
DECODES = ("full", "reduced")
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"}
)
# Only these decoders: Pillow would otherwise also try those that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
_ORIENTATION = 0x0112
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
# What never follows the start of the only scan of an intact JPEG.
_STRAY_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xd9\xff]")
_SPARE = 1.4  # below that, what the decoder averages shows in the result
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """An image file that cannot be decoded.

    Attributes:
      member: its path, within the folder or archive.
      reason: what the decoder said.
    """

    def __init__(self, member: str, reason: str) -> None:
        """Keeps both for the one message about all such files."""
        self.member, self.reason = member, reason
        super().__init__(f"{member}: {reason}")


@dataclass(frozen=True)
class Decoded:
    """One decoded image.

    Attributes:
      pixels: (R, R, C) uint8, or (H, W, C) where no resolution was asked for.
      height: H.
      width: W.
      grey: whether the file itself holds grey values only.
    """

    pixels: np.ndarray
    height: int
    width: int
    grey: bool


def is_image(path: str) -> bool:
    """Whether a path is taken for an image: by its extension, hidden files never."""
    name = PurePosixPath(path)
    return not name.name.startswith(".") and name.suffix.lower() in EXTENSIONS


def to_square(image: np.ndarray, resolution: int, fit: str, kernel: str = "area") -> np.ndarray:
    """An (H, W, C) uint8 image as (R, R, C); returned as it is where it already has that size.

    Args:
      image: (H, W, C) uint8.
      resolution: R.
      fit: "crop" (the largest centred square, then resized) or "squash" (both sides resized).
      kernel: "area" or "lanczos" (Pillow's, which averages over all pixels while it shrinks).
    """
    height, width, channels = image.shape
    if (height, width) == (resolution, resolution):
        return image
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = np.ascontiguousarray(image[top : top + side, left : left + side])
        height = width = side
        if side == resolution:
            return image
    if kernel == "lanczos":
        return _lanczos(image, resolution, (0, 0, width, height))
    shrunk = (min(width, resolution), min(height, resolution))
    if shrunk != (width, height):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (resolution, resolution):
        image = cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image).reshape(resolution, resolution, channels)


def _lanczos(
    image: np.ndarray, resolution: int, box: tuple[float, float, float, float]
) -> np.ndarray:
    """The box (left, top, right, bottom) of an (h, w, C) image as (R, R, C)."""
    source = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = source.resize((resolution, resolution), Image.Resampling.LANCZOS, box)
    return np.asarray(resized).reshape(resolution, resolution, -1)


@lru_cache(maxsize=256)
def _area_weights(count: int, start: float, stop: float, resolution: int) -> np.ndarray:
    """(R, count): each row averages its share of [start, stop], parts of pixels too."""
    edges = np.linspace(start, stop, resolution + 1)
    lower, upper = edges[:-1, None], edges[1:, None]
    pixels = np.arange(count)
    overlap = np.minimum(upper, pixels + 1) - np.maximum(lower, pixels)
    return (np.maximum(overlap, 0) / (upper - lower)).astype(np.float32)


def _reduction(height: int, width: int, resolution: int) -> int:
    """By how much a JPEG decoder may shrink an image so that `_SPARE` times R is left of it."""
    fine = (f for f in (8, 4, 2) if min(height, width) >= _SPARE * f * resolution)
    return next(fine, 1)


def _reduced_square(
    image: np.ndarray, size: tuple[int, int], factor: int, resolution: int, fit: str, kernel: str
) -> np.ndarray:
    """A JPEG of `size` decoded at 1/`factor` as (R, R, C).

    The crop is that of the full image, in parts of the larger pixels: cutting at whole ones would
    shift the picture by up to half a pixel of the result.
    """
    height, width = size
    side = min(height, width)
    top, left = ((height - side) // 2, (width - side) // 2) if fit == "crop" else (0, 0)
    high, wide = (side, side) if fit == "crop" else (height, width)
    t, b, l, r = (edge / factor for edge in (top, top + high, left, left + wide))  # noqa: E741
    if kernel == "lanczos":
        return _lanczos(image, resolution, (l, t, r, b))
    rows = _area_weights(image.shape[0], t, b, resolution)
    columns = _area_weights(image.shape[1], l, r, resolution)
    thin = np.tensordot(rows, image.astype(np.float32), (1, 0))  # (R, w, C)
    small = np.matmul(columns, thin)  # (R, R, C)
    return np.rint(small).clip(0, 255).astype(np.uint8)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image as its EXIF data says; broken EXIF data leave it as stored."""
    try:
        return _TRANSPOSE.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises anything at all; the pixels are still good
        return None


def _first_scan(data: bytes) -> int | None:
    """Where the first scan of a JPEG begins, behind all headers; None if those are broken."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == _START_OF_SCAN:
            return at + 2
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _jpeg(opened: Image.Image, data: bytes, factor: int = 1) -> np.ndarray | None:
    """An ordinary JPEG as (ceil(H / factor), ceil(W / factor), 3) uint8 pixels, by OpenCV.

    It gives Pillow's pixels in a little less time. None where the file is anything but
    ordinary (CMYK, to be turned, without its end mark, with stray markers, which OpenCV passes
    over): what to make of those is Pillow's to say.
    """
    if opened.format != "JPEG" or opened.mode not in ("L", "RGB") or _turn(opened) is not None:
        return None
    if not data.rstrip(b"\0").endswith(_END_OF_IMAGE):
        return None
    # Progressive files are read to their end before the first row, and refused if it is broken.
    if "progressive" not in opened.info:
        scan = _first_scan(data)
        if scan is None or _STRAY_MARKER.search(data, scan):
            return None
    flags = _REDUCED[factor] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if factor > 1:  # there is no reduced flag with this order of channels
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    size = (-(-opened.height // factor), -(-opened.width // factor), 3)
    return np.asarray(pixels) if pixels.shape == size else None


def _eight_bit(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as "L" or "RGB", and whether it was grey; transparency is laid over white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("grey values beyond 16 bits")
        # Pillow's own conversion clips at 255 instead of scaling.
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)), True
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("L" if grey else "RGB"), grey


def decode_image(
    data: bytes,
    member: str,
    channels: int | None,
    resolution: int | None,
    fit: str,
    kernel: str = "area",
    decode: str = "full",
) -> Decoded:
    """Decodes an image file: orientation applied, 8 bits, grey or RGB, square.

    Args:
      data: the file.
      member: its path, for the error.
      channels: C, 1 or 3; None: 3, and `Decoded.grey` says whether one would have done.
      resolution: R; None: the size is left as stored.
      fit: "crop" or "squash".
      kernel: "area" or "lanczos".
      decode: "full", or "reduced": a JPEG much larger than R is decoded at 1/2, 1/4 or 1/8 of its
        size, which is faster and a little different.

    Raises:
      MemoryError: there is not enough memory.
      UnreadableImage: no image, truncated, more than `MAX_PIXELS`, or of a kind without 8-bit
        meaning (floating point).
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width}x{opened.height} pixels are too many")
            height, width = opened.height, opened.width
            factor = 1
            if decode == "reduced" and resolution is not None:
                factor = _reduction(height, width, resolution)
            fast = _jpeg(opened, data, factor) if channels != 1 else None
            if fast is not None:
                pixels, grey = fast, opened.mode == "L"
            else:
                factor = 1
                opened.load()
                turn = _turn(opened)
                image, grey = _eight_bit(opened if turn is None else opened.transpose(turn))
                image = image.convert("L" if channels == 1 else "RGB")
                pixels = np.asarray(image).reshape(image.height, image.width, -1)
                height, width = pixels.shape[:2]
    except MemoryError:
        raise  # says nothing about the image
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):  # its text is a memory address
            reason = "not an image of a known format"
        raise UnreadableImage(member, reason) from error
    if resolution is not None and factor > 1:
        pixels = _reduced_square(pixels, (height, width), factor, resolution, fit, kernel)
    elif resolution is not None:
        pixels = to_square(pixels, resolution, fit, kernel)
    return Decoded(pixels, height, width, grey)
