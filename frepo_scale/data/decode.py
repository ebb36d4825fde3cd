"""Bytes of an image file to a uint8 square.

Sizes: H, W as stored (after the EXIF orientation), R the resolution asked for, C channels.
Shrinking averages areas unless asked otherwise. Area averaging cannot enlarge (it repeats pixels),
so growing is bilinear; where one side shrinks and the other grows, the shrinking is done first.
"""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
import simplejpeg
from PIL import Image

# Enough for any photograph; beyond it a small file can claim all memory.
MAX_PIXELS = 89_478_485
MAX_BYTES = 256 << 20
FITS = ("crop", "squash")
FILTERS = ("area", "lanczos")
EXTENSIONS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pbm"),
        *(".gif", ".tif", ".tiff"),
    }
)
# Only these decoders: Pillow would otherwise also try those that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
_ORIENTATION = 0x0112
_DARK = 1 << 15  # largest values below it leave out a bit
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
      reason: the error of the decoder.
    """

    def __init__(self, member: str, reason: str) -> None:
        """Both go into the one message about all such files."""
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
      deep: the largest value of 16 bits before they became 8; 0 where there were 8.
    """

    pixels: np.ndarray
    height: int
    width: int
    grey: bool
    deep: int = 0


def is_image(path: str) -> bool:
    """Whether a path is an image, by its extension; hidden files are not."""
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
        source = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized = source.resize((resolution, resolution), Image.Resampling.LANCZOS)
        return np.asarray(resized).reshape(resolution, resolution, channels)
    shrunk = (min(height, resolution), min(width, resolution))
    if shrunk != (height, width):
        image = cv2.resize(np.ascontiguousarray(image), shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (resolution, resolution):
        image = cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_LINEAR)
    return np.asarray(image).reshape(resolution, resolution, channels)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image as its EXIF data says; broken EXIF data leave it as stored."""
    try:
        return _TRANSPOSE.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises anything at all; the pixels are still good
        return None


def _read(data: bytes, channels: int | None) -> tuple[np.ndarray, bool, int]:
    """An image file as (H, W, 1 or 3) uint8, whether it is grey, and its largest 16-bit value."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
        _check_size(opened.height, opened.width)
        turn = _turn(opened)
        ordinary = opened.format == "JPEG" and opened.mode in ("RGB", "L")
        if ordinary and turn is None and channels != 1:
            pixels = _jpeg(data)
            if pixels is not None and pixels.shape[:2] == (opened.height, opened.width):
                return pixels, opened.mode == "L", 0
        return _by_pillow(opened, turn, channels)


def _by_pillow(
    opened: Image.Image, turn: Image.Transpose | None, channels: int | None
) -> tuple[np.ndarray, bool, int]:
    opened.load()
    image, grey, deep = eight_bit(opened if turn is None else opened.transpose(turn))
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, -1), grey, deep


def _jpeg(data: bytes) -> np.ndarray | None:
    """An ordinary JPEG as (H, W, 3): Pillow's pixels in less time.

    None where libjpeg warns of something; Pillow decides what to make of that.
    """
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return pixels


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels are too many")


def eight_bit(image: Image.Image) -> tuple[Image.Image, bool, int]:
    """The image as "L" or "RGB", whether it was grey, and `Decoded.deep`.

    Alpha is blended with white.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("grey values beyond 16 bits")
        # Pillow's own conversion clips at 255 instead of scaling.
        eight = ((deep + 128) // 257).astype(np.uint8)
        return Image.fromarray(eight), True, int(deep.max())
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("L" if grey else "RGB"), grey, 0


def decode_image(
    data: bytes,
    member: str,
    channels: int | None,
    resolution: int | None,
    fit: str,
    kernel: str = "area",
) -> Decoded:
    """Decodes an image file: orientation applied, 8 bits, grey or RGB, square.

    Args:
      data: the file.
      member: its path, for the error.
      channels: C, 1 or 3; None: 3, and `Decoded.grey` says whether the file is grey.
      resolution: R; None: the size is left as stored.
      fit: "crop" or "squash".
      kernel: "area" or "lanczos".

    Raises:
      MemoryError: there is not enough memory.
      UnreadableImage: no image, truncated, more than `MAX_PIXELS`, or of a kind without 8-bit
        meaning (floating point).
    """
    try:
        pixels, grey, deep = _read(data, channels)
    except MemoryError:
        raise  # not a fault of the image
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):  # its text is a memory address
            reason = "not an image of a known format"
        raise UnreadableImage(member, reason) from error
    height, width = pixels.shape[:2]
    if resolution is not None:
        pixels = to_square(pixels, resolution, fit, kernel)
    return Decoded(pixels, height, width, grey, deep)


def deep_note(largest: int) -> tuple[str, ...]:
    """A note on images of 16 bits whose largest value this is; empty where there are none."""
    if not largest:
        return ()
    note = f"images of 16 bits: their largest value is {largest:,} of 65,535"
    dark = "; they become dark: multiply them to use the range up to 65,535, if that is not meant"
    return (note + (dark if largest < _DARK else ""),)
