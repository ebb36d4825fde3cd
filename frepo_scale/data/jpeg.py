"""What stands before the pixels of an ordinary JPEG.

Pillow reads it too, in fifty microseconds of Python; a photograph takes thirty times that to
decode, so it would be felt. Anything unusual is left to Pillow.
"""

from typing import NamedTuple

_START = b"\xff\xd8\xff"
_APP0, _APP1, _APP2, _APP13, _COMMENT = 0xE0, 0xE1, 0xE2, 0xED, 0xFE
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_SCAN = 0xDA
_TABLES = (0xC4, 0xDB, 0xDD)  # Huffman, quantisation, restart interval
_HARMLESS = (*_TABLES, _APP0, _APP13, _COMMENT)
_FRAME_BYTES = 8  # precision, height, width, number of components, without what follows for each
# The tag of the orientation in either byte order, and its name in XMP. Anywhere in a segment they
# may mean something else: then Pillow is asked for nothing.
_ORIENTATION = (b"\x01\x12", b"\x12\x01", b"Orientation")


class JpegHead(NamedTuple):
    """What an ordinary JPEG says of itself.

    Attributes:
      height: H, in pixels.
      width: W.
      grey: whether it has one component.
      perhaps_turned: whether it may tell an orientation.
    """

    height: int
    width: int
    grey: bool
    perhaps_turned: bool = False


def ordinary_head(data: bytes) -> JpegHead | None:
    """The head of a JPEG of 8 bits, grey or in colour.

    None for anything else, damaged heads too: CMYK, Adobe's own colours, several pictures in one
    file.
    """
    if not data.startswith(_START):
        return None
    at, head, turned = 2, None, False
    while len(data) - at > 4 and data[at] == 0xFF:
        marker, size = data[at + 1], data[at + 2] << 8 | data[at + 3]
        body = data[at + 4 : at + 2 + size]
        if marker == _SCAN:
            return None if head is None else head._replace(perhaps_turned=turned)
        if marker in _FRAMES and head is None:
            head = _frame(body)
            if head is None:
                return None
        elif marker == _APP1:
            turned = turned or any(sign in body for sign in _ORIENTATION)
        elif marker == _APP2:
            if not body.startswith(b"ICC_PROFILE\0"):
                return None
        elif marker not in _HARMLESS:
            return None
        at += 2 + size
    return None


def _frame(body: bytes) -> JpegHead | None:
    if len(body) < _FRAME_BYTES or body[0] != 8 or body[5] not in (1, 3):
        return None
    height, width = body[1] << 8 | body[2], body[3] << 8 | body[4]
    return JpegHead(height, width, body[5] == 1) if height and width else None
