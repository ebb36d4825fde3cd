"""The three parts of a data set that a run uses.

Source: docs/algorithm.md sections 1 and 6 (the held-out part replaces selection on the test set).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.loading import load
from frepo_scale.data.noise import noise_set
from frepo_scale.data.placement import Room, choose_placement
from frepo_scale.data.settings import IMAGES, DataConfig
from frepo_scale.data.sources.specs import DatasetSpec, spec_for
from frepo_scale.data.subset import (
    check_present,
    chosen_classes,
    chunk_rows,
    parse_chunk,
)
from frepo_scale.data.types import Chosen, RawDataset, Rows, Split, everything
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing


@dataclass(frozen=True, kw_only=True)
class Dataset(RawDataset):
    """A data set split for a run. Pixels stay uint8; `preprocessing` makes net inputs of them.

    `train` is the target part, without the held-out images; `test` is for the final numbers only.
    With `CLASSES` the three parts have images of these classes only. With `CHUNK_OF` the target
    part and the held-out images are those of one chunk, and the test part is whole.

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

    @cached_property
    def classes(self) -> np.ndarray:
        """The classes that have images, ascending: (k,) int32, all K unless `CLASSES` is set."""
        return np.unique(self.train.labels)

    @property
    def whitened(self) -> bool:
        """Whether ZCA is applied: colour sets, grey ones not."""
        return self.spec.zca if self.spec.channels is not None else self.image_shape[-1] == 3

    def fit_preprocessing(self) -> Preprocessing:
        """Normalisation, and whitening for colour sets, from the target part of all classes."""
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
    chunk, labels = parse_chunk(config.chunk_of), raw.train.labels
    classes = chosen_classes(config.classes, len(raw.class_names))
    rows = np.ones(len(labels), bool) if chunk is None else chunk_rows(labels, *chunk)
    check_present(labels[rows], classes, f"CHUNK_OF = {config.chunk_of!r}: the chunk")
    held_out = np.zeros(len(labels), bool)
    held_out[rows] = held_out_rows(labels[rows], len(raw.class_names))
    target, wanted = rows & ~held_out, np.isin(labels, classes)
    train = _subset(raw.train, target & wanted)
    if config.batch > len(train):
        raise InputError(
            f"BATCH = {config.batch}: {config.name} has {len(train)} training images after the"
            " held-out part is set aside",
            f"at most {len(train)}",
            f"use --gin.BATCH={len(train)}",
        )
    known = vars(raw) | {"train": train, "held_out": _subset(raw.train, held_out & wanted)}
    if config.classes is not None:
        known["test"] = _subset(raw.test, np.isin(raw.test.labels, classes))
    # The statistics of a prepared set are of all its images. A chunk has its own: what is
    # published of a chunk must not depend on other images.
    if placement != "constant" and (chunk or (config.classes and raw.statistics is None)):
        fitted_to = _subset(raw.train, target)
        known |= {"statistics": lambda whiten: _fit(fitted_to, whiten), "fitted": False}
    known["fingerprint"] = raw.fingerprint or _fingerprint(raw)
    return Dataset(**known, spec=spec, placement=placement)


def _fit(part: Rows, whiten: bool) -> Preprocessing:
    """The statistics of a part, which is read as a whole."""
    return fit_preprocessing(everything(part), whiten)


def _load(config: DataConfig, room: Room) -> tuple[RawDataset, str]:
    """The data set and the placement of its target part."""

    def on_disk(pixels: int) -> bool:
        return choose_placement(config.placement, pixels, True, room) != "memory"

    source_class = config.images if config.images not in IMAGES else None
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
