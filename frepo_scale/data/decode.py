"""Bytes of an image file to a uint8 square.

Sizes: H, W as stored (after the EXIF orientation), R the resolution asked for, C channels.
Shrinking uses area averaging. Area averaging cannot enlarge (it repeats pixels), so growing is
bilinear; where one side shrinks and the other grows, the shrinking is done first.
"""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
from PIL import Image

# Enough for any photograph; beyond it a small file can ask for all the memory there is.
MAX_PIXELS = 89_478_485
MAX_BYTES = 256 << 20
FITS = ("crop", "squash")
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"}
)
# Only these decoders: Pillow would otherwise also try those that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
_ORIENTATION = 0x0112
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


def to_square(image: np.ndarray, resolution: int, fit: str) -> np.ndarray:
    """An (H, W, C) uint8 image as (R, R, C); returned as it is where it already has that size.

    Args:
      image: (H, W, C) uint8.
      resolution: R.
      fit: "crop" (the largest centred square, then resized) or "squash" (both sides resized).
    """
    height, width, channels = image.shape
    if (height, width) == (resolution, resolution):
        return image
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = np.ascontiguousarray(image[top : top + side, left : left + side])
        height = width = side
    shrunk = (min(width, resolution), min(height, resolution))
    if shrunk != (width, height):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (resolution, resolution):
        image = cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image).reshape(resolution, resolution, channels)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data says; broken EXIF data leave it as stored."""
    try:
        turn = _TRANSPOSE.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises anything at all; the pixels are still good
        return image
    return image if turn is None else image.transpose(turn)


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
    data: bytes, member: str, channels: int | None, resolution: int | None, fit: str
) -> Decoded:
    """Decodes an image file: orientation applied, 8 bits, grey or RGB, square.

    Args:
      data: the file.
      member: its path, for the error.
      channels: C, 1 or 3; None: 3, and `Decoded.grey` says whether one would have done.
      resolution: R; None: the size is left as stored.
      fit: "crop" or "squash".

    Raises:
      UnreadableImage: no image, truncated, more than `MAX_PIXELS`, or of a kind without 8-bit
        meaning (floating point).
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width}x{opened.height} pixels are too many")
            opened.load()
            image, grey = _eight_bit(_upright(opened))
        image = image.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):  # its text is a memory address
            reason = "not an image of a known format"
        raise UnreadableImage(member, reason) from error
    height, width = pixels.shape[:2]
    if resolution is not None:
        pixels = to_square(pixels, resolution, fit)
    return Decoded(pixels, height, width, grey)
