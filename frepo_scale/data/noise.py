"""Random images instead of a data set, to measure the cost of reading the real one.

No whitening is fitted; an identity of the same size is applied.
"""

import hashlib

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.specs import DatasetSpec
from frepo_scale.data.types import RawDataset
from frepo_scale.data.whitening import Preprocessing, Whitening, whitened_size

_DISTINCT = 1024  # images
_PER_CLASS = 1300  # as ImageNet-1K has
_TEST = 2000


class Noise:
    """Uniformly random pixels, repeated every `_DISTINCT` images."""

    def __init__(self, size: int, shape: tuple[int, int, int], num_classes: int) -> None:
        """`size` images (H, W, C) uint8 with labels 0, 1, ..., K - 1, 0, ..."""
        rng = np.random.Generator(np.random.Philox(key=[0, size]))
        self._images = rng.integers(0, 256, (min(size, _DISTINCT), *shape), np.uint8)
        self.labels = (np.arange(size) % num_classes).astype(np.int32)

    def __len__(self) -> int:
        """n."""
        return len(self.labels)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """See `data.types.Rows`."""
        return self._images[rows % len(self._images)]


def noise_set(spec: DatasetSpec, resolution: int | None) -> RawDataset:
    """Random images with the shape and classes of a data set.

    Raises:
      InputError: its shape or classes are unknown before it is read.
    """
    side = resolution or spec.resolution
    if spec.num_classes is None or side is None or spec.channels is None:
        raise InputError(
            f"DATA_SOURCE = 'noise' with DATASET = {spec.name!r}",
            "a data set of known classes and shape",
            "use one of the published sets, with --gin.RESOLUTION where another size is wanted",
        )
    shape = (side, side, spec.channels)
    dim = side * side * spec.channels
    half = np.full(spec.channels, 0.5, np.float32)

    def statistics(whiten: bool) -> Preprocessing:
        if not whiten:
            return Preprocessing(half, half, None)
        same = np.eye(whitened_size(shape), dtype=np.float32)
        return Preprocessing(half, half, Whitening(np.zeros(dim, np.float32), same, same))

    size = _PER_CLASS * spec.num_classes
    return RawDataset(
        spec.name,
        tuple(str(label) for label in range(spec.num_classes)),
        Noise(size, shape, spec.num_classes),
        Noise(_TEST, shape, spec.num_classes),
        image_shape=shape,
        fit="native",
        skipped=0,
        origin="random numbers",
        statistics=statistics,
        fitted=True,
        fingerprint=hashlib.sha256(repr((spec.name, size, shape)).encode()).hexdigest(),
    )
