"""The three parts of a data set that a run uses.

Source: docs/algorithm.md sections 1 and 6 (the held-out part replaces selection on the test set).
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from frepo_scale.core.checks import check_choice
from frepo_scale.core.errors import InputError
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.data.decode import FITS
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.loading import load
from frepo_scale.data.noise import noise_set
from frepo_scale.data.placement import PLACEMENTS, Room, choose_placement
from frepo_scale.data.sources.specs import DatasetSpec, spec_for
from frepo_scale.data.types import Chosen, RawDataset, Rows, Split, everything
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing

LARGEST_SIDE = 4096  # pixels; more is a typing error, and would not fit into memory
_IMAGES = ("real", "noise")


@dataclass(frozen=True)
class DataConfig:
    """The real images, and how they reach the devices."""

    name: str = setting(macro="DATASET", help="the data set, such as cifar10")
    directory: str | None = setting(
        None,
        "DATA_DIR",
        "path of the data set; None: the usual paths (docs/recipes.md)",
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
        0,
        "SKIP_UNREADABLE",
        "at most this many undecodable images are skipped; one more is an error",
        low=0,
    )
    batch: int = setting(1024, "BATCH", "target images per net and outer step", low=1)
    images: str = setting(
        "real",
        "DATA_SOURCE",
        "real | noise | the dotted path of a source class; noise: random pixels, to measure input",
    )
    placement: str = setting(
        "auto",
        "DATA_PLACEMENT",
        "where the target images are stored during a run: memory | device | stream | auto",
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
        if "." not in self.images:
            check_choice("DATA_SOURCE", self.images, (*_IMAGES, "a dotted path module.Class"))


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
