"""The three parts of a data set a run uses, ready for the net.

Source: ALGORITHM.md section 1 and 6 (the held-out part replaces selection on the test set).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from frepo_scale.core.checks import check_choice, check_int
from frepo_scale.core.errors import InputError
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.sources import DatasetSpec, load, spec_for
from frepo_scale.data.types import Split
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing

LARGEST_SIDE = 4096  # pixels; more is a typing error, and would not fit into memory
FITS = ("crop", "squash")
_OPERATIONAL = {"operational": True}


@dataclass(frozen=True)
class DataConfig:
    """Which real images, and how they arrive.

    Attributes:
      name: a data set of `frepo_scale.data.sources.SPECS`.
      directory: where it is, or None for the usual places.
      resolution: side in pixels images of differing sizes are brought to; None: the data set's.
      fit: how they become squares, "crop" or "squash".
      skip_unreadable: how many undecodable images may be left out.
      batch: target batch, B.
    """

    name: str
    directory: str | None = field(default=None, metadata=_OPERATIONAL)
    resolution: int | None = None
    fit: str = "crop"
    skip_unreadable: int = 0
    batch: int = 1024

    def __post_init__(self) -> None:
        """Refuses unknown data sets and impossible values."""
        spec_for(self.name)
        if self.directory is not None and not isinstance(self.directory, str):
            raise InputError(f"DATA_DIR = {self.directory!r}", "a path, or None")
        if self.resolution is not None:
            check_int("RESOLUTION", self.resolution, low=1, high=LARGEST_SIDE)
        check_choice("FIT", self.fit, FITS)
        check_int("SKIP_UNREADABLE", self.skip_unreadable, low=0)
        check_int("BATCH", self.batch, low=1)


@dataclass(frozen=True)
class Dataset:
    """A data set split for a run. Pixels stay uint8; `preprocessing` makes net inputs of them.

    Attributes:
      spec: the source's facts.
      class_names: K names.
      train: the target part, without the held-out images.
      held_out: selects the best distilled set; may be empty.
      test: for the final numbers only.
      origin: where it was read from.
      fit: how images became squares.
      skipped: undecodable images left out.
      fingerprint: sha256 of every pixel and label in order.
      statistics: of the source, see `RawDataset`.
    """

    spec: DatasetSpec
    class_names: tuple[str, ...]
    train: Split
    held_out: Split
    test: Split
    origin: str
    fit: str
    skipped: int
    fingerprint: str
    statistics: Callable[[bool], Preprocessing] | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def whitened(self) -> bool:
        """Whether ZCA is applied: colour sets, grey ones not."""
        return self.spec.zca if self.spec.channels is not None else self.image_shape[-1] == 3

    def fit_preprocessing(self) -> Preprocessing:
        """Normalisation, and whitening for colour sets, from the target part."""
        if self.statistics is not None:
            return self.statistics(self.whitened)
        return fit_preprocessing(self.train.images, self.whitened)


def load_dataset(config: DataConfig) -> Dataset:
    """Reads and splits the data set a recipe names.

    Raises:
      InputError: it is not there, is damaged, or has fewer images than a batch.
    """
    raw = load(config.name, config.directory, config.resolution, config.fit, config.skip_unreadable)
    held_out = held_out_rows(raw.train.labels, len(raw.class_names))
    train = raw.train.take(~held_out)
    if config.batch > len(train):
        raise InputError(
            f"BATCH = {config.batch}: {config.name} has {len(train)} training images after the"
            " held-out part is set aside",
            f"at most {len(train)}",
            f"use --gin.BATCH={len(train)}",
        )
    digest = hashlib.sha256()
    for split in (raw.train, raw.test):
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels).data)
    return Dataset(
        spec=spec_for(config.name),
        class_names=raw.class_names,
        train=train,
        held_out=raw.train.take(held_out),
        test=raw.test,
        origin=raw.origin,
        fit=raw.fit,
        skipped=raw.skipped,
        fingerprint=digest.hexdigest(),
        statistics=raw.statistics,
    )
