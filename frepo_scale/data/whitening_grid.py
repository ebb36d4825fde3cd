"""Large images as interleaved grids of at most 64 px, each of which is whitened alike.

Source: ALGORITHM.md section 1 (block ZCA on checkerboard sub-grids).

Legend: n images, H W height and width, C channels, g grids per axis, E = H*W*C / g^2.
"""

import numpy as np

LARGEST_SIDE = 64  # 12 288 dimensions of a colour image
_SMALLEST_SIDE = 32  # of a grid: below, neighbouring pixels are too far apart to be whitened


def grids_per_axis(resolution: int) -> int | None:
    """g, the fewest that divide the resolution; None where the grids would be too coarse."""
    if resolution <= LARGEST_SIDE:
        return 1
    for grid in range(2, resolution // _SMALLEST_SIDE + 1):
        if resolution % grid == 0 and resolution // grid <= LARGEST_SIDE:
            return grid
    return None


def split_grids(images: np.ndarray, grid: int) -> np.ndarray:
    """(n, H, W, C) as (n * g * g, E): grid (a, b) of an image has its pixels [a::g, b::g]."""
    n, height, width, channels = images.shape
    if grid == 1:
        return images.reshape(n, -1)
    blocks = images.reshape(n, height // grid, grid, width // grid, grid, channels)
    return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(n * grid * grid, -1)
