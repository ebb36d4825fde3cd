"""The three parts of a data set that a run uses.

Source: docs/algorithm.md sections 1 and 6 (the held-out part replaces selection on the test set).
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from frepo_scale.core.checks import check_choice, check_int
from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import FITS
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.loading import load
from frepo_scale.data.noise import noise_set
from frepo_scale.data.placement import PLACEMENTS, Room, choose_placement
from frepo_scale.data.sources.specs import DatasetSpec, spec_for
from frepo_scale.data.types import Chosen, RawDataset, Rows, Split, everything
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing

LARGEST_SIDE = 4096  # pixels; more is a typing error, and would not fit into memory
_IMAGES = ("real", "synthetic")
_OPERATIONAL = {"operational": True}


@dataclass(frozen=True)
class DataConfig:
    """Which real images, and how they arrive.

    Attributes:
      name: a data set of `frepo_scale.data.sources.SPECS`.
      directory: its path, or None for the default paths of the data set.
      resolution: side in pixels images of differing sizes are brought to; None: the data set's.
      fit: how they become squares, "crop" or "squash".
      skip_unreadable: how many undecodable images may be left out.
      batch: target batch, B.
      images: "real", "synthetic" for random ones of the same shape, or the dotted path of a source
        class of the user's own (`sources.listing.Source`).
      placement: where the target images are held during a run, one of `placement.PLACEMENTS`.
      workers: processes that read streamed images; 0 reads on threads.
    """

    name: str
    directory: str | None = field(default=None, metadata=_OPERATIONAL)
    resolution: int | None = None
    fit: str = "crop"
    skip_unreadable: int = 0
    batch: int = 1024
    images: str = "real"
    placement: str = field(default="auto", metadata=_OPERATIONAL)
    workers: int = field(default=0, metadata=_OPERATIONAL)

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
        if not isinstance(self.images, str) or "." not in self.images:
            check_choice("DATA", self.images, (*_IMAGES, "a dotted path module.Class"))
        check_choice("DATA_PLACEMENT", self.placement, PLACEMENTS)
        check_int("DATA_WORKERS", self.workers, low=0)


@dataclass(frozen=True, kw_only=True)
class Dataset(RawDataset):
    """A data set split for a run. Pixels stay uint8; `preprocessing` makes net inputs of them.

    `train` is the target part, without the held-out images; `test` is for the final numbers only.

    Attributes:
      spec: facts of the data set that are known before it is read.
      held_out: selects the best distilled set; may be empty.
      placement: "memory", "device" or "stream", see `data.placement`; "constant" for random images.
      fingerprint: of a prepared set its own, otherwise sha256 of every pixel and label in order.
    """

    spec: DatasetSpec
    held_out: Rows
    placement: str
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def whitened(self) -> bool:
        """Whether ZCA is applied: colour sets, grey ones not."""
        return self.spec.zca if self.spec.channels is not None else self.image_shape[-1] == 3

    def fit_preprocessing(self) -> Preprocessing:
        """Normalisation, and whitening for colour sets, from the target part."""
        if self.statistics is not None:
            return self.statistics(self.whitened)
        return fit_preprocessing(everything(self.train), self.whitened)


def load_dataset(config: DataConfig, room: Room = Room("cpu", 0)) -> Dataset:  # noqa: B008  a tuple
    """Reads, or opens, and splits the data set a recipe names.

    Args:
      config: which one.
      room: the memory of the devices.

    Raises:
      InputError: it is missing, damaged, has fewer images than a batch, or cannot be placed as the
        recipe asks.
    """
    spec = spec_for(config.name)
    if config.images == "synthetic":
        raw, placement = noise_set(spec, config.resolution), "constant"
    else:
        raw, placement = _load(config, room)
    held_out = held_out_rows(raw.train.labels, len(raw.class_names))
    train = _subset(raw.train, ~held_out)
    if config.batch > len(train):
        raise InputError(
            f"BATCH = {config.batch}: {config.name} has {len(train)} training images after the"
            " held-out part is set aside",
            f"at most {len(train)}",
            f"use --gin.BATCH={len(train)}",
        )
    parts = {"train": train, "held_out": _subset(raw.train, held_out)}
    fingerprint = raw.fingerprint or _fingerprint(raw)
    known = vars(raw) | parts | {"fingerprint": fingerprint}
    return Dataset(**known, spec=spec, placement=placement)


def _load(config: DataConfig, room: Room) -> tuple[RawDataset, str]:
    """The data set and the placement of its target part."""

    def on_disk(pixels: int) -> bool:
        return choose_placement(config.placement, pixels, True, room) != "memory"

    source_class = config.images if config.images not in _IMAGES else None
    raw = load(config, on_disk, source_class)
    pixels = int(np.prod(raw.image_shape)) * (len(raw.train) + len(raw.test))
    prepared = raw.fingerprint is not None
    return raw, choose_placement(config.placement, pixels, prepared, room)


def _subset(rows: Rows, chosen: np.ndarray) -> Rows:
    """Where `chosen` (n,) bool is true."""
    return rows.take(chosen) if isinstance(rows, Split) else Chosen(rows, np.flatnonzero(chosen))


def _fingerprint(raw: RawDataset) -> str:
    digest = hashlib.sha256()
    for part in (raw.train, raw.test):
        images = everything(part)
        digest.update(repr(images.shape).encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(part.labels).data)
    return digest.hexdigest()
