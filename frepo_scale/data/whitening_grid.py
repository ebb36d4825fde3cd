"""Large images as interleaved grids of at most 64 px, all whitened by one matrix.

Source: docs/algorithm.md section 1 (block ZCA on checkerboard sub-grids).

The functions take NumPy and JAX arrays.

Legend: n images, H W height and width, C channels, g grids per axis, E = H*W*C / g^2.
"""

import math
from typing import Any

Array = Any  # NumPy's or JAX's; reading data does not import JAX

LARGEST_SIDE = 64  # 12 288 dimensions of a colour image
_SMALLEST_SIDE = 32  # of a grid: below, neighbouring pixels are too far apart to be whitened


def grids_per_axis(resolution: int) -> int | None:
    """g, the smallest that divides the resolution; None where the grids would be too coarse."""
    if resolution <= LARGEST_SIDE:
        return 1
    for grid in range(2, resolution // _SMALLEST_SIDE + 1):
        if resolution % grid == 0 and resolution // grid <= LARGEST_SIDE:
            return grid
    return None


def grid_of(mean: Array, matrix: Array) -> int:
    """g of a whitening with a mean (H*W*C,) and a matrix (E, E)."""
    return math.isqrt(mean.size // len(matrix))


def split_grids(images: Array, grid: int) -> Array:
    """(n, H, W, C) as (n * g * g, E): grid (a, b) of an image has its pixels [a::g, b::g]."""
    n, height, width, channels = images.shape
    size = height * width * channels // grid**2  # not -1: there may be no image
    if grid == 1:
        return images.reshape(n, size)
    blocks = images.reshape(n, height // grid, grid, width // grid, grid, channels)
    return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(n * grid * grid, size)


def join_grids(rows: Array, shape: tuple[int, ...], grid: int) -> Array:
    """The inverse of `split_grids` for images of `shape` (n, H, W, C)."""
    n, height, width, channels = shape
    if grid == 1:
        return rows.reshape(shape)
    blocks = rows.reshape(n, grid, grid, height // grid, width // grid, channels)
    return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(shape)
