"""Bytes of an image file to a uint8 square.

Sizes: H, W as stored (after the EXIF orientation), R the resolution asked for, C channels.
Shrinking uses area averaging unless asked otherwise. Area averaging cannot enlarge (it repeats
pixels), so growing is bilinear; where one side shrinks and the other grows, the shrinking is done
first.
"""

import io
import math
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from frepo_scale.data.area import area_average
from frepo_scale.data.jpeg import JpegHead, ordinary_head

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
_SPARE = 1.4  # times the resolution: with less left, what the decoder averages shows in the result
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
        image = image[top : top + side, left : left + side]
        height = width = side
        if side == resolution:
            return image
    if kernel == "lanczos":
        return _lanczos(image, resolution, (0, 0, width, height))
    shrunk = (min(height, resolution), min(width, resolution))
    if shrunk != (height, width):
        image = area_average(image, (0, 0, width, height), shrunk)
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


def _reduced_square(
    image: np.ndarray, size: tuple[int, int], resolution: int, fit: str, kernel: str
) -> np.ndarray:
    """A JPEG of `size` (H, W), decoded smaller, as (R, R, C).

    The crop is that of the full image, in parts of the larger pixels: cutting at whole ones would
    shift the picture by up to half a pixel of the result.
    """
    height, width = size
    side = min(height, width)
    top, left = ((height - side) // 2, (width - side) // 2) if fit == "crop" else (0, 0)
    high, wide = (side, side) if fit == "crop" else (height, width)
    # The decoder rounds sizes up, so its last row and column may be of less than whole pixels.
    scale = max(image.shape[0] / height, image.shape[1] / width)
    scale = math.floor(8 * scale) / 8
    box = tuple(edge * scale for edge in (left, top, left + wide, top + high))
    if kernel == "lanczos":
        return _lanczos(image, resolution, box)
    return area_average(image, box, (resolution, resolution))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image as its EXIF data says; broken EXIF data leave it as stored."""
    try:
        return _TRANSPOSE.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises anything at all; the pixels are still good
        return None


def _is_turned(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
        return _turn(opened) is not None


def _jpeg(data: bytes, head: JpegHead, smallest: int) -> np.ndarray | None:
    """An ordinary JPEG as (H, W, 3) uint8 pixels, or as an eighth of that or a multiple of it.

    These are Pillow's pixels, in less time. None where libjpeg warns of something: what to make of
    that is Pillow's to say.

    Args:
      data: the file.
      head: its head.
      smallest: pixels that the shorter side may shrink to; 0: it keeps its size.
    """
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=smallest, min_width=smallest
        )
    except ValueError:
        return None
    return pixels if smallest or pixels.shape[:2] == head[:2] else None


def _any(data: bytes, channels: int | None) -> tuple[np.ndarray, bool]:
    """An image as Pillow reads it, (H, W, 1 or 3) uint8, and whether it was grey."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
        _check_size(opened.height, opened.width)
        opened.load()
        turn = _turn(opened)
        image, grey = _eight_bit(opened if turn is None else opened.transpose(turn))
        image = image.convert("L" if channels == 1 else "RGB")
        return np.asarray(image).reshape(image.height, image.width, -1), grey


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are too many")


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
        head = ordinary_head(data) if channels != 1 else None
        pixels = None
        if head is not None and not (head.perhaps_turned and _is_turned(data)):
            height, width, grey, _ = head
            _check_size(height, width)
            smallest = 0
            if decode == "reduced" and resolution is not None:
                least = math.ceil(_SPARE * resolution)
                # Other than by halves, shrinking takes the decoder longer than it saves.
                smallest = least if min(height, width) >= 2 * least else 0
            pixels = _jpeg(data, head, smallest)
        if pixels is None:
            pixels, grey = _any(data, channels)
            height, width = pixels.shape[:2]
    except MemoryError:
        raise  # says nothing about the image
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):  # its text is a memory address
            reason = "not an image of a known format"
        raise UnreadableImage(member, reason) from error
    if resolution is not None and pixels.shape[:2] != (height, width):
        pixels = _reduced_square(pixels, (height, width), resolution, fit, kernel)
    elif resolution is not None:
        pixels = to_square(pixels, resolution, fit, kernel)
    return Decoded(pixels, height, width, grey)
