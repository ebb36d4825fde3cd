"""One PNG that shows the distilled images, class by class.

Legend: N distilled images, H W height and width, C channels (1 or 3), K classes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from frepo_scale.core.atomic import whole_file

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_LARGE_CELL, _SMALL_CELL = 96, 64  # pixels an image is enlarged to at most
_MANY = 200  # small cells are used above this number of images
_GAP, _MARGIN, _FONT_SIZE, _LINE = 4, 12, 13, 18
_LONGEST_NAME = 130  # pixels of the column of names
_TALLEST = 2.2  # height / width; taller galleries are split into columns
_INK = (115, 122, 132, 255)  # readable on white and on black: the background is transparent


@dataclass(frozen=True)
class _Layout:
    """One block per class: its name, above one image or left of a row of several."""

    scale: int  # a pixel becomes scale x scale pixels
    cell: tuple[int, int]  # width, height of an enlarged image
    name_width: int
    block: tuple[int, int]  # width, height of a class with the gaps after it
    first_image: tuple[int, int]  # left, top within its block
    columns: int  # of blocks
    rows: int

    def corner(self, index: int) -> tuple[int, int]:
        """Upper left corner of the block of the class `index`."""
        # Single images are in reading order; rows of images are ordered down the columns.
        above = self.first_image[0] == 0
        row, column = divmod(index, self.columns) if above else divmod(index, self.rows)[::-1]
        return _MARGIN + column * self.block[0], _MARGIN + row * self.block[1]


def save_gallery(
    path: str | Path,
    pixels: np.ndarray,
    class_names: tuple[str, ...],
    ipc: int,
    max_classes: int = 100,
    max_per_class: int = 10,
) -> None:
    """Writes a PNG grid of the images with the name of each class.

    Small images are enlarged by whole factors, pixel by pixel. One image per class gives a grid of
    named images, several give one row per class. A caption states what is left out.

    Args:
      path: the PNG to write; an existing one is replaced.
      pixels: (N, H, W, C) uint8, N = K * ipc, class-major.
      class_names: K names.
      ipc: images per class.
      max_classes: largest number of classes shown.
      max_per_class: largest number of images shown of each class.

    Raises:
      InputError: `path` cannot be written.
      ValueError: `pixels` are not `ipc` uint8 images for each class.
    """
    from PIL import Image, ImageDraw, ImageFont

    if pixels.ndim != 4 or pixels.dtype != np.uint8 or len(pixels) != len(class_names) * ipc:
        raise ValueError(
            f"{pixels.shape} {pixels.dtype} are not {ipc} images for {len(class_names)} classes"
        )
    font = ImageFont.load_default(_FONT_SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)  # it is, if a size is given
    classes, shown = min(len(class_names), max_classes), min(ipc, max_per_class)
    names = [" ".join(name.split()) for name in class_names[:classes]]
    widest = math.ceil(max(font.getlength(name) for name in names))
    height, width, channels = pixels.shape[1:]
    layout = _lay_out(classes, shown, height, width, widest)

    caption = _caption((classes, len(class_names)), (shown, ipc))
    across = 2 * _MARGIN + layout.columns * layout.block[0] - _GAP
    down = 2 * _MARGIN + layout.rows * layout.block[1] - _GAP
    if caption:
        across = max(across, 2 * _MARGIN + math.ceil(font.getlength(caption)))
        down += _LINE
    canvas = Image.new("RGBA", (across, down))
    draw = ImageDraw.Draw(canvas)
    for index, name in enumerate(names):
        left, top = layout.corner(index)
        dx, dy = layout.first_image
        # Pillow's anchors: "l"eft or "r"ight, "a"scender or "m"iddle.
        at, anchor = (left, top), "la"
        if dx:
            at, anchor = (left + layout.name_width, top + layout.cell[1] // 2), "rm"
        draw.text(at, _shorten(name, font, layout.name_width), _INK, font, anchor)
        for column, image in enumerate(pixels[index * ipc : index * ipc + shown]):
            large = image.repeat(layout.scale, axis=0).repeat(layout.scale, axis=1)
            tile = Image.fromarray(large[..., 0] if channels == 1 else large)
            canvas.paste(tile, (left + dx + column * (layout.cell[0] + _GAP), top + dy))
    if caption:
        draw.text((_MARGIN, down - _MARGIN - _FONT_SIZE), caption, _INK, font, "la")
    with whole_file(path) as file:
        canvas.save(file, format="png")


def _lay_out(classes: int, shown: int, height: int, width: int, widest_name: int) -> _Layout:
    side = _LARGE_CELL if classes * shown <= _MANY else _SMALL_CELL
    scale = max(1, side // max(height, width))
    cell = (width * scale, height * scale)
    if shown == 1:
        name_width = max(cell[0], min(_LARGE_CELL, widest_name))  # room for names under small cells
        block = (name_width + _GAP, _LINE + cell[1] + 2 * _GAP)
        columns = _even_columns(classes)
        rows = math.ceil(classes / columns)
        return _Layout(scale, cell, name_width, block, (0, _LINE), columns, rows)
    name_width = min(_LONGEST_NAME, widest_name)
    left = name_width + 2 * _GAP
    block = (left + shown * (cell[0] + _GAP) + 3 * _GAP, cell[1] + _GAP)
    columns, rows = 1, classes
    while rows * block[1] > _TALLEST * columns * block[0]:
        columns += 1
        rows = math.ceil(classes / columns)
    columns = math.ceil(classes / rows)  # rounding up rows can leave the last column empty
    return _Layout(scale, cell, name_width, block, (left, 0), columns, rows)


def _even_columns(count: int) -> int:
    # Between square and twice as wide as tall, the number with the fewest empty cells.
    square = math.ceil(math.sqrt(count))
    return min(range(square, min(2 * square, count) + 1), key=lambda c: (-count % c, c))


def _caption(classes: tuple[int, int], images: tuple[int, int]) -> str:
    parts = []
    if classes[0] < classes[1]:
        parts.append(f"first {classes[0]} of {classes[1]} classes")
    if images[0] < images[1]:
        parts.append(f"first {images[0]} of {images[1]} images per class")
    return ", ".join(parts)


def _shorten(name: str, font: "FreeTypeFont", width: int) -> str:
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(name + "…") > width:
        name = name[:-1].rstrip()
    return name + "…"
