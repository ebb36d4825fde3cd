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
_KEPT = 32  # shapes of images whose corners are kept: a data set has a few common ones


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
    places, shares = _corners(
        (height, top - y, bottom - y, size[0]), (width, left - x, right - x, size[1]), channels
    )
    corners = sums.take(places, axis=0).reshape(shares.shape)
    at_edges = np.einsum("abij,abij->ij", corners, shares)
    strips = at_edges[1:] - at_edges[:-1]
    means = strips[:, channels:] - strips[:, :-channels]
    means *= size[0] * size[1] / ((bottom - top) * (right - left))
    return np.rint(means, out=means).astype(np.uint8).reshape(*size, channels)


_Side = tuple[
    int, float, float, int
]  # pixels, where the part begins and ends, pixels of the result


@lru_cache(maxsize=_KEPT)
def _corners(rows: _Side, columns: _Side, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of the table lie around each crossing of edges, and what each counts there.

    Returns:
      Flat places of the entries above and below, left and right of each crossing
      (2 * 2 * (h + 1) * (w + 1),); their shares of what the table has between them, of each
      channel (2, 2, h + 1, (w + 1) * C).
    """
    found = []
    for pixels, start, stop, parts in (rows, columns):
        edges = np.linspace(start, stop, parts + 1)
        before = np.minimum(edges.astype(np.int64), pixels - 1)
        after = edges - before
        found.append((np.stack([before, before + 1]), np.stack([1 - after, after])))
    (y, down), (x, across) = found
    places = y[:, None, :, None] * (columns[0] + 1) + x[None, :, None, :]
    shares = down[:, None, :, None] * np.repeat(across, channels, axis=1)[None, :, None, :]
    return places.reshape(-1), shares
