"""The three parts of a data set a run uses, and where they lie.

Source: ALGORITHM.md section 1 and 6 (the held-out part replaces selection on the test set).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.noise import noise_set
from frepo_scale.data.placement import PLACEMENTS, Room, choose_placement
from frepo_scale.data.sources import DatasetSpec, load, spec_for
from frepo_scale.data.types import Chosen, RawDataset, Rows, Split, everything
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing

LARGEST_SIDE = 4096  # pixels; more is a typing error, and would not fit into memory
FITS = ("crop", "squash")


@dataclass(frozen=True)
class DataConfig:
    """The real images, and how they reach the devices."""

    name: str = setting(macro="DATASET", help="the data set, such as cifar10")
    directory: str | None = setting(
        None,
        "DATA_DIR",
        "path of the data set; None: the usual paths, see the README",
        operational=True,
    )
    resolution: int | None = setting(
        None,
        "RESOLUTION",
        "side of the images in pixels; None: as the data set has it",
        low=1,
        high=LARGEST_SIDE,
    )
    fit: str = setting(
        "crop", "FIT", "how images of differing sizes become squares: crop | squash", choices=FITS
    )
    skip_unreadable: int = setting(
        0, "SKIP_UNREADABLE", "this many images that cannot be decoded are skipped", low=0
    )
    batch: int = setting(1024, "BATCH", "target images per net and outer step", low=1)
    images: str = setting(
        "real",
        "DATA_SOURCE",
        "real | noise; noise: random pixels, to measure what the input costs",
        choices=("real", "noise"),
    )
    placement: str = setting(
        "auto",
        "DATA_PLACEMENT",
        "where the target images are during a run: memory | device | stream | auto",
        choices=PLACEMENTS,
        operational=True,
    )
    workers: int = setting(
        0,
        "DATA_WORKERS",
        "processes that read a streamed set; 0: threads",
        low=0,
        operational=True,
    )

    def __post_init__(self) -> None:
        """Raises InputError for an unknown data set or a value out of its bounds."""
        spec_for(self.name)
        check_settings(self)


@dataclass(frozen=True)
class Dataset:
    """A data set split for a run. Pixels stay uint8; `preprocessing` makes net inputs of them.

    Attributes:
      spec: the source's facts.
      class_names: K names.
      image_shape: (H, W, C).
      train: the target part, without the held-out images.
      held_out: selects the best distilled set; may be empty.
      test: for the final numbers only; may be empty.
      placement: "memory", "device" or "stream", see `data.placement`; "constant" for random images.
      origin: where it was read from.
      fit: how images became squares.
      skipped: undecodable images left out.
      fingerprint: of a prepared set its own, else sha256 of every pixel and label in order.
      statistics: of the source, see `RawDataset`.
    """

    spec: DatasetSpec
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Rows
    held_out: Rows
    test: Rows
    placement: str
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
      room: what the devices have for images.

    Raises:
      InputError: it is not there, is damaged, has fewer images than a batch, or cannot lie where
        the recipe wants it.
    """
    spec = spec_for(config.name)
    if config.images == "noise":
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
    return Dataset(
        spec=spec,
        class_names=raw.class_names,
        image_shape=raw.image_shape,
        train=train,
        held_out=_subset(raw.train, held_out),
        test=raw.test,
        placement=placement,
        origin=raw.origin,
        fit=raw.fit,
        skipped=raw.skipped,
        fingerprint=raw.fingerprint or _fingerprint(raw),
        statistics=raw.statistics,
    )


def _load(config: DataConfig, room: Room) -> tuple[RawDataset, str]:
    """The data set and where its target part is to lie."""

    def on_disk(pixels: int) -> bool:
        return choose_placement(config.placement, pixels, True, room) != "memory"

    raw = load(
        config.name,
        config.directory,
        config.resolution,
        config.fit,
        config.skip_unreadable,
        on_disk,
    )
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
