"""The preprocessing of an export in words and numbers, and what 8-bit pixels lose.

Legend: N images, H W height and width, C channels, D = H*W*C.
"""

from typing import Any

import numpy as np

from frepo_scale.data.whitening import Preprocessing
from frepo_scale.data.whitening_grid import grid_of

_LOSSY = 0.01  # relative error of net inputs from which pixels are for viewing only


def describe_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """How pixels become net inputs, step by step, for somebody who has only the file.

    Args:
      preprocessing: from pixels to net inputs.

    Returns:
      JSON values: "pixels", "layout", "steps" (texts, in order); where there is whitening also
      "grids_per_axis" and "whitening_upper".
    """
    described: dict[str, Any] = {
        "pixels": "uint8, 0 to 255",
        "layout": "(N, H, W, C); channels of colour images are red, green, blue",
        "steps": ["divide by 255", "subtract channel_mean, divide by channel_std"],
    }
    whitening = preprocessing.whitening
    if whitening is None:
        return described
    grid = grid_of(whitening.mean, whitening.matrix)
    described["steps"] += [
        "subtract whitening_mean, which is in the order (H, W, C)",
        "flatten each image in the order (H, W, C) to a row"
        if grid == 1
        else f"split each image into {grid * grid} interleaved grids: grid (a, b) holds the pixels"
        f" [a::{grid}, b::{grid}]; flatten each in the order (H, W, C) to a row",
        "multiply the rows by the whitening matrix from the right: rows @ matrix",
        "restore the shape (H, W, C)"
        if grid == 1
        else "restore the shape of each grid and put its pixels back",
    ]
    described["grids_per_axis"] = grid
    described["whitening_upper"] = (
        "the upper triangle of the symmetric whitening matrix by rows: matrix[0, 0:],"
        " matrix[1, 1:], ...; the inverse transform solves with the same matrix"
    )
    return described


def pixel_losses(preprocessing: Preprocessing, images: np.ndarray) -> dict[str, Any]:
    """What is lost when net inputs are stored as 8-bit pixels.

    Args:
      preprocessing: from pixels to net inputs.
      images: (N, H, W, C) float32 net inputs.

    Returns:
      "clipped_share": share of the values outside the range of pixels. "relative_error": root mean
      square of the difference between the net inputs of the 8-bit pixels and `images`, relative to
      that of `images`. "preview_only": whether that error is above 1 %.
    """
    values = preprocessing.invert(images) * 255.0
    clipped = float(np.mean((values < -0.5) | (values > 255.5)))
    back = preprocessing.apply(preprocessing.to_pixels(images))
    scale = max(float(np.sqrt(np.mean(np.square(images, dtype=np.float64)))), 1e-12)
    error = float(np.sqrt(np.mean(np.square(back - images, dtype=np.float64)))) / scale
    return {
        "clipped_share": round(clipped, 6),
        "relative_error": round(error, 6),
        "preview_only": error > _LOSSY,
    }
