"""Pixels to net inputs and back: channel normalisation, then ZCA whitening for colour sets.

Source: docs/algorithm.md section 1 (Zhou et al. 2022, section 4 and its published code).

Legend: n images, H W height and width, C channels, D = H*W*C pixels of one image, E of one of its
interleaved grids (`data.whitening_grid`); up to 64 px there is one, and E = D.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening_grid import grid_of, grids_per_axis, join_grids, split_grids

ZCA_REGULARISATION = 0.1
_FEW = 4  # with at most 1 / 4 as many rows as dimensions, eigenvectors are computed from the rows
_ROWS_AT_ONCE = 4096  # bounds the float copy of a uint8 set


@dataclass(frozen=True)
class Whitening:
    """A ZCA transform `x -> (x - mean) @ matrix` of flattened HWC images, or of their grids.

    Attributes:
      mean: (D,) float32, of whole images.
      matrix: (E, E) float32, symmetric.
      inverse: (E, E) float32, `x = z @ inverse + mean`; None: `invert` solves with `matrix`.
    """

    mean: np.ndarray
    matrix: np.ndarray
    inverse: np.ndarray | None = None

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Normalised (n, H, W, C) float32 images, whitened."""
        return self._product(images - self.mean.reshape(images.shape[1:]), self.matrix)

    def invert(self, images: np.ndarray) -> np.ndarray:
        """The inverse of `apply`."""
        middle = self.mean.reshape(images.shape[1:])
        if self.inverse is not None:
            return self._product(images, self.inverse) + middle
        from scipy.linalg import cho_solve  # not at the top: reading data does not need it

        grid = grid_of(self.mean, self.matrix)
        rows = np.asarray(split_grids(images, grid)).astype(np.float64)
        solved = cho_solve(self._factor, rows.T).T
        return np.asarray(join_grids(solved.astype(np.float32), images.shape, grid)) + middle

    @functools.cached_property
    def _factor(self) -> Any:
        """Of `matrix`, for `scipy.linalg.cho_solve`."""
        from scipy.linalg import LinAlgError, cho_factor

        try:
            return cho_factor(self.matrix.astype(np.float64))
        except LinAlgError as error:
            raise InputError(
                "the whitening matrix has no inverse", "a positive definite matrix"
            ) from error

    def _product(self, images: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        grid = grid_of(self.mean, matrix)
        rows = _product(np.asarray(split_grids(images, grid)), matrix)
        return np.asarray(join_grids(rows, images.shape, grid))


@dataclass(frozen=True)
class Preprocessing:
    """All steps from uint8 pixels to net inputs; part of every checkpointed run and export.

    Attributes:
      channel_mean: (C,) float32, of pixels in [0, 1].
      channel_std: (C,) float32.
      whitening: the ZCA transform of the normalised images, or None (grey sets).
    """

    channel_mean: np.ndarray
    channel_std: np.ndarray
    whitening: Whitening | None

    def apply(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, C) pixels to float32 (n, H, W, C) net inputs."""
        out = np.empty(images.shape, np.float32)
        for lo in range(0, len(images), _ROWS_AT_ONCE):
            block = images[lo : lo + _ROWS_AT_ONCE]
            x = (block.astype(np.float32) / 255.0 - self.channel_mean) / self.channel_std
            if self.whitening is not None:
                x = self.whitening.apply(x)
            out[lo : lo + _ROWS_AT_ONCE] = x
        return out

    def invert(self, images: np.ndarray) -> np.ndarray:
        """Float (n, H, W, C) net inputs to float32 pixels, nominally in [0, 1] but not clipped."""
        x = np.asarray(images, np.float32)
        if self.whitening is not None:
            x = self.whitening.invert(x)
        return np.asarray(x * self.channel_std + self.channel_mean, np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by the names under which runs and exports store them."""
        arrays = {"channel_mean": self.channel_mean, "channel_std": self.channel_std}
        if self.whitening is not None:
            arrays |= {
                "whitening_mean": self.whitening.mean,
                "whitening_matrix": self.whitening.matrix,
            }
            if self.whitening.inverse is not None:
                arrays["whitening_inverse"] = self.whitening.inverse
        return arrays

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "Preprocessing":
        """The inverse of `arrays`; other names are ignored."""
        whitening = None
        if "whitening_matrix" in arrays:
            whitening = Whitening(
                arrays["whitening_mean"],
                arrays["whitening_matrix"],
                arrays.get("whitening_inverse"),
            )
        return Preprocessing(arrays["channel_mean"], arrays["channel_std"], whitening)

    def to_pixels(self, images: np.ndarray) -> np.ndarray:
        """Float (n, H, W, C) net inputs to viewable uint8 pixels, clipped and rounded."""
        return np.clip(np.rint(self.invert(images) * 255.0), 0, 255).astype(np.uint8)


def empty_preprocessing(image_shape: tuple[int, int, int], whiten: bool) -> Preprocessing:
    """A preprocessing of zeros with the shapes of one fitted to images (H, W, C)."""
    dim, channels = int(np.prod(image_shape)), image_shape[-1]
    zeros = np.zeros(channels, np.float32)
    if not whiten:
        return Preprocessing(zeros, zeros, None)
    matrix = np.zeros((whitened_size(image_shape),) * 2, np.float32)
    return Preprocessing(zeros, zeros, Whitening(np.zeros(dim, np.float32), matrix, matrix))


def whitened_size(image_shape: tuple[int, int, int]) -> int:
    """E of images (H, W, C).

    Raises:
      InputError: they cannot be whitened.
    """
    return math.prod(image_shape) // _grid(image_shape) ** 2


def _grid(image_shape: tuple[int, ...]) -> int:
    """Grids per axis of images (H, W, C) that are whitened.

    Raises:
      InputError: they cannot be split into grids.
    """
    height, width, _ = image_shape
    grid = grids_per_axis(max(height, width))
    if grid is None or (grid > 1 and height != width):
        raise InputError(
            f"images of {height}x{width} pixels cannot be whitened",
            "at most 64 pixels, or squares that split evenly into grids of 33 to 64",
            "use --gin.RESOLUTION=64 (or 96, 128), or prepare the set with --resolution 64",
        )
    return grid


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    import jax  # not at the top: reading data does not need it
    import jax.numpy as jnp

    # HIGHEST: a TPU's default matrix precision is off by 1.5 % here (docs/algorithm.md section 1).
    with jax.default_matmul_precision("highest"):
        return np.asarray(jnp.asarray(rows) @ jnp.asarray(matrix))


def channel_histogram(images: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel of uint8 (n, H, W, C) pixels: int64 (C, 256).

    Histograms of the parts of a set add up to that of the set, exactly.
    """
    channels = images.shape[-1]
    return np.stack(
        [np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(channels)]
    )


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel mean and standard deviation of uint8 (n, H, W, C) pixels scaled to [0, 1].

    Returns:
      Two float32 (C,) arrays; a channel that never varies gets standard deviation 1.
    """
    # A histogram is exact and needs no float copy of the set.
    return histogram_statistics(channel_histogram(images))


def histogram_statistics(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, as `channel_statistics`, from an int64 (C, 256) histogram.

    Computed from exact integer sums, so the result does not depend on the order of summation.
    """
    counts = histogram.astype(np.float64)
    values = np.arange(256) / 255.0
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    std = np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0.0)), 1.0)
    return mean.astype(np.float32), std.astype(np.float32)


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and biased covariance (D, D) in float64 of (n, D) float rows."""
    n, dim = images.shape
    mean = images.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((dim, dim))
    for lo in range(0, n, _ROWS_AT_ONCE):
        centred = images[lo : lo + _ROWS_AT_ONCE].astype(np.float64) - mean
        covariance += centred.T @ centred
    return mean, covariance / n


def zca(mean: np.ndarray, covariance: np.ndarray, n: int) -> Whitening:
    """The whitening of data with these moments.

    `reg = 0.1 * tr(cov) / D`, eigenvalues of `cov + reg I` in descending order; where there are
    fewer images than pixels the eigenvalues past the n-th are set to 1, as the authors do. There
    the data leave the directions of the tail undetermined, so which of them has `reg` instead
    of 1 depends on the eigensolver: we take LAPACK's order.

    Args:
      mean: (D,) float64.
      covariance: (E, E) float64, the mean of those of the grids.
      n: number of images the moments were taken over.
    """
    dim = len(covariance)
    regularisation = ZCA_REGULARISATION * np.trace(covariance) / dim
    rows = n * (len(mean) // dim)
    if rows * _FEW <= dim:
        roots, vectors = _few_images(covariance, regularisation, n, rows)
        # All other directions are unchanged.
        matrix = np.eye(dim) + (vectors * (1.0 / roots - 1.0)) @ vectors.T
        inverse = np.eye(dim) + (vectors * (roots - 1.0)) @ vectors.T
    else:
        values, vectors = np.linalg.eigh(covariance + regularisation * np.eye(dim))
        values, vectors = values[::-1].copy(), vectors[:, ::-1]
        values[n:] = 1.0
        matrix = (vectors / np.sqrt(values)) @ vectors.T
        inverse = (vectors * np.sqrt(values)) @ vectors.T
    # Symmetric to the last bit: exports hold one triangle of the matrix.
    matrix = (matrix + matrix.T) / 2
    return Whitening(*(np.asarray(a, np.float32) for a in (mean, matrix, inverse)))


def _few_images(
    covariance: np.ndarray, regularisation: float, n: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """The n leading eigenpairs of the regularised covariance of n images, n far below E.

    The covariance has the rank r of its `rows` rows at most: n, or n g² with grids. A pivoted
    Cholesky factor of that many columns has its eigenpairs at r² E operations instead of the E³ of
    the whole problem: at 64 px and 1000 images seconds instead of many minutes.

    Returns:
      Square roots of the eigenvalues (n,) and their vectors (E, n). Directions past the rank, which
      the data do not determine, are unit vectors made orthogonal to the others.
    """
    from scipy.linalg import lapack  # not at the top: reading data does not need it

    packed, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    rank = min(int(rank), rows)
    factor = np.empty((len(covariance), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    values, rotation = np.linalg.eigh(factor.T @ factor)
    values, rotation = values[-n:], rotation[:, -n:]
    rank = len(values)
    vectors = factor @ (rotation / np.sqrt(values))
    # The factor determines the rows that come last among the pivots least.
    rest = np.zeros((len(covariance), n - rank))
    rest[pivots[::-1][: n - rank] - 1, np.arange(n - rank)] = 1.0
    for _ in range(2):  # once leaves rounding errors along `vectors`
        rest -= vectors @ (vectors.T @ rest)
        rest = np.linalg.qr(rest)[0]
    roots = np.sqrt(np.concatenate([values, np.zeros(n - rank)]) + regularisation)
    return roots, np.concatenate([vectors, rest], axis=1)


def moments_preprocessing(
    channel_mean: np.ndarray,
    channel_std: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray,
    n: int,
) -> Preprocessing:
    """The result of `fit_preprocessing` with whitening, from moments of the pixels.

    Args:
      channel_mean: (C,) float32, of pixels in [0, 1].
      channel_std: (C,) float32.
      mean: (D,) float64 of pixels in [0, 255].
      covariance: (E, E) float64 of the same, biased, the mean of those of the grids.
      n: number of images the moments were taken over.
    """
    channels = len(channel_mean)
    shift = np.tile(channel_mean.astype(np.float64), len(mean) // channels)
    scale = np.tile(channel_std.astype(np.float64), len(mean) // channels)
    normalised = (mean / 255.0 - shift) / scale
    spread = 255.0 * scale[: len(covariance)]
    return Preprocessing(
        channel_mean,
        channel_std,
        zca(normalised, covariance / spread[:, None] / spread[None, :], n),
    )


def fit_preprocessing(images: np.ndarray, whiten: bool) -> Preprocessing:
    """Statistics of the training part (without the held-out images).

    Args:
      images: (n, H, W, C) uint8.
      whiten: whether ZCA follows the channel normalisation.

    Raises:
      InputError: images of this size cannot be whitened.
    """
    mean, std = channel_statistics(images)
    plain = Preprocessing(mean, std, None)
    if not whiten:
        return plain
    grid = _grid(images.shape[1:])
    inputs = plain.apply(images)
    if grid == 1:
        return Preprocessing(mean, std, zca(*moments(inputs.reshape(len(images), -1)), len(images)))
    middle = inputs.mean(axis=0, dtype=np.float64)
    inputs -= middle.astype(np.float32)
    _, covariance = moments(np.asarray(split_grids(inputs, grid)))
    return Preprocessing(mean, std, zca(middle.reshape(-1), covariance, len(images)))
