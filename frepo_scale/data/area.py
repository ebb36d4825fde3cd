"""Exact area averaging: a pixel of the result is the mean of its share of the image.

Shares begin and end within pixels. In the table of sums (of all pixels above and left of a corner)
the sum of any rectangle is a difference of four entries, and within a pixel the table is bilinear:
so only the corners around the edges of the shares are looked at. OpenCV's `INTER_AREA` gives the
same pixels in twice the time (BUILD_NOTES.md).

Legend: H, W of the image, h, w of the result, C channels.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

_LARGEST_INT32 = 2**31 - 1
_KEPT = 4096  # sides whose edges are kept, of 2 kB each: photographs have hundreds of sizes


def area_average(
    image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """A part of an image, shrunk.

    Args:
      image: (H, W, C) uint8.
      box: left, top, right and bottom of the part, in pixels within the image.
      size: h and w, at most the height and the width of the part.

    Returns:
      (h, w, C) uint8.
    """
    left, top, right, bottom = box
    x, y = int(left), int(top)
    part = image[y : math.ceil(bottom), x : math.ceil(right)]
    height, width, channels = part.shape
    depth = cv2.CV_32S if 255 * height * width <= _LARGEST_INT32 else cv2.CV_64F
    sums = cv2.integral(part, sdepth=depth).reshape(-1, channels)
    rows, below = _edges(height, top - y, bottom - y, size[0])
    columns, beside = _edges(width, left - x, right - x, size[1])
    places = rows[:, None, :, None] * (width + 1) + columns[None, :, None, :]
    corners = sums.take(places.reshape(-1), axis=0).reshape(2, 2, size[0] + 1, -1)
    # In place, since making an array takes as long as filling it.
    at_rows = np.subtract(corners[1], corners[0]).astype(np.float64)
    at_rows *= below[:, None]
    at_rows += corners[0]
    at_edges = at_rows[1] - at_rows[0]
    at_edges *= np.repeat(beside, channels)
    at_edges += at_rows[0]
    strips = at_edges[1:] - at_edges[:-1]
    means = strips[:, channels:] - strips[:, :-channels]
    means *= size[0] * size[1] / ((bottom - top) * (right - left))
    return np.rint(means, out=means).astype(np.uint8).reshape(*size, channels)


@lru_cache(maxsize=_KEPT)
def _edges(pixels: int, start: float, stop: float, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one side: the entries of the table around each edge, and where between them it is.

    Returns:
      Those before and behind each edge (2, parts + 1) int64; how far behind the former the edge
      lies (parts + 1,), in pixels.
    """
    edges = np.linspace(start, stop, parts + 1)
    before = np.minimum(edges.astype(np.int64), pixels - 1)
    return np.stack([before, before + 1]), edges - before
