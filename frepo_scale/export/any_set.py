"""A distilled set of any origin, made fit for evaluation: layout, range of pixels, labels.

What is not told is recognised and stated, so that a wrong guess is seen.

Legend: n images, H W height and width, C channels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.subset import text_of
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.export.any_set_files import read_raw
from frepo_scale.export.formats import Export
from frepo_scale.export.raw_set import RawSet

_ONE = 0.95  # images that reach beyond it on both sides, but not beyond 1, have that range
_MOST = 12.0  # of the absolute value of normalised images; more are taken for an error


@dataclass(frozen=True)
class Told:
    """What the user says about a set.

    Attributes:
      labels: a file with the labels, or None.
      normalised: mean and standard deviation that were used to normalise the images, one number or
        one for each channel, of pixels from 0 to 1; None: not told.
    """

    labels: Path | None = None
    normalised: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def read_any_set(
    path: Path,
    told: Told,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    classes: np.ndarray,
) -> "AnySet":
    """Reads labelled images and finds out what they are; nothing is computed with them yet.

    Args:
      path: see `any_set_files.read_raw`.
      told: what the user says about it.
      image_shape: (H, W, C) of the data set.
      class_names: of the data set, K names.
      classes: those that must have images, all K unless `CLASSES` is set.

    Raises:
      InputError: the images do not suit the data set, or anything in the file is wrong.
    """
    raw = read_raw(path, told.labels, class_names, image_shape[-1])
    images, layout = _channels_last(path, raw.images, image_shape)
    assert raw.labels is not None  # read_raw refuses it
    labels, kind = _soft_labels(path, raw.labels, len(images), len(class_names))
    hard = labels.argmax(axis=1).astype(np.int32)
    if raw.hard is not None:
        hard = _integers(path, "hard_labels", raw.hard, len(images), len(class_names))
    _check_counts(path, hard, class_names, classes)
    order = np.argsort(hard, kind="stable")  # class by class, as our own sets are
    note = f"{raw.note}: {len(images)} images {layout}, {kind}"
    return AnySet(path, raw, told, images[order], labels[order], hard[order], note)


@dataclass(frozen=True)
class AnySet:
    """Checked images and labels whose range of pixels is not yet known.

    Attributes:
      path: where they were read.
      raw: as they were read.
      told: what the user says.
      images: (n, H, W, C), sorted by class.
      labels: (n, K) float32.
      hard_labels: (n,) int32.
      note: what was recognised.
    """

    path: Path
    raw: RawSet
    told: Told
    images: np.ndarray
    labels: np.ndarray
    hard_labels: np.ndarray
    note: str

    def export(
        self, preprocessing: Preprocessing, class_names: tuple[str, ...]
    ) -> tuple[Export, str]:
        """The set as one of our own, and one line that states what was recognised.

        Args:
          preprocessing: of the data set.
          class_names: of the data set.

        Raises:
          InputError: the range of the pixels cannot be recognised.
        """
        unit, found = self._unit(preprocessing)
        exported = Export(
            images=preprocessing.apply(unit * np.float32(255.0)),
            labels=self.labels,
            hard_labels=self.hard_labels,
            class_names=class_names,
            preprocessing=preprocessing,
            evaluation={},
            provenance={},
        )
        return exported, f"{self.note}, {found}"

    def _unit(self, preprocessing: Preprocessing) -> tuple[np.ndarray, str]:
        """Pixels with the range 0 to 1, not clipped, and how they were recognised."""
        with np.errstate(over="ignore"):  # refused below
            values = self.images.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        span = f"values from {low:.3g} to {high:.3g}"
        if self.told.normalised is not None:
            mean, std = (
                _per_channel(name, numbers, values.shape[-1])
                for name, numbers in zip(("mean", "std"), self.told.normalised, strict=True)
            )
            unit = values * std + mean
            self._check_told(unit, span)
            return unit, f"{span}, normalised as told{_pixels(unit)}"
        if self.raw.unit:
            return values, f"{span}, of the range 0 to 1"
        if self.images.dtype.kind in "ui":
            if low < 0 or high > 255:
                raise InputError(f"{self.path}: integer pixels, {span}", "0 to 255")
            if high <= 1:
                raise InputError(
                    f"{self.path}: integer pixels, {span}",
                    "integers from 0 to 255, or floats from 0 to 1",
                    "if 1 is the brightest pixel, give --normalised 0 1",
                )
            return values / 255, f"pixels from {low:.0f} to {high:.0f}, of the range 0 to 255"
        if low >= 0 and high <= 1:
            return values, f"{span}, taken as pixels of 0 to 1"
        if low >= 0 and 2 < high <= 255:
            return values / 255, f"{span}, taken as pixels of 0 to 255"
        if low < -_ONE and high > _ONE and max(-low, high) <= 1:
            # Real images that were normalised with statistics of their own go far beyond.
            raise InputError(
                f"{self.path}: {span}",
                "pixels from 0 to 255 or from 0 to 1, or the normalisation",
                "if -1 is black and 1 is white, give --normalised 0.5 0.5",
            )
        if low < -0.3 and max(-low, high) <= _MOST:
            found = "taken as normalised with the mean and standard deviation of the data set"
            unit = values * preprocessing.channel_std + preprocessing.channel_mean
            return unit, f"{span}, {found} (--normalised names others){_pixels(unit)}"
        raise InputError(
            f"{self.path}: {span}",
            "pixels from 0 to 255 or from 0 to 1, or normalised images",
            "if they were normalised, give --normalised MEAN STD; for pixels of 0 to 1 that were"
            " not clipped --normalised 0 1",
        )

    def _check_told(self, unit: np.ndarray, span: str) -> None:
        """Raises InputError if most pixels are far outside of 0 to 1: other units were meant."""
        if np.mean((unit > -1) & (unit < 2)) >= 0.5:
            return
        raise InputError(
            f"{self.path}: {span}, with --normalised pixels from {unit.min():.3g} to"
            f" {unit.max():.3g}",
            "mean and standard deviation of pixels from 0 to 1",
            "leave --normalised out"
            if self.images.dtype.kind in "ui"
            else "divide those of pixels from 0 to 255 by 255",
        )


def _pixels(unit: np.ndarray) -> str:
    """The range of pixels, nominally 0 to 1, for a note."""
    outside = 100 * float(np.mean((unit < -1 / 510) | (unit > 1 + 1 / 510)))
    return f": pixels from {unit.min():.3g} to {unit.max():.3g}, {outside:.2g} % outside of 0 to 1"


def _per_channel(name: str, numbers: Sequence[float], channels: int) -> np.ndarray:
    if len(numbers) not in (1, channels):
        raise InputError(
            f"--normalised: {len(numbers)} numbers for the {name}",
            f"one number, or {channels} separated by commas",
        )
    found = np.array(numbers, np.float32)
    if not np.isfinite(found).all() or (name == "std" and found.min() <= 0):
        raise InputError(f"--normalised: {name} {list(numbers)}", "finite numbers, std above 0")
    return found


def _channels_last(
    path: Path, images: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, str]:
    """The images as (n, H, W, C), and their layout."""
    if images.dtype.kind not in "uif":
        fix = "save them as bytes: 255 * images.astype('uint8')" if images.dtype == bool else ""
        raise InputError(f"{path}: images are {images.dtype}", "numbers", fix)
    height, width, channels = shape
    found = images.shape[1:]
    if images.ndim == 3 and channels == 1:
        images, found, layout = images[..., None], (*found, 1), "(n, H, W)"
    else:
        layout = "(n, H, W, C)"
    if found == (channels, height, width) and found != shape:
        images, found, layout = images.transpose(0, 2, 3, 1), shape, "(n, C, H, W)"
    if found != shape or not len(images):
        raise InputError(
            f"{path}: images {images.shape}",
            f"(n, {height}, {width}, {channels}) or (n, {channels}, {height}, {width})",
            "name the data set that the set was made from with --dataset, and its size with"
            " --gin.RESOLUTION",
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise InputError(f"{path}: images have NaN or infinite values", "finite values")
    return images, layout


def _soft_labels(path: Path, labels: np.ndarray, n: int, classes: int) -> tuple[np.ndarray, str]:
    """Labels as (n, K) float32 targets of the squared error, and their kind."""
    if labels.dtype.kind not in "uifb" or labels.shape[:1] != (n,):
        raise InputError(f"{path}: labels {labels.shape} {labels.dtype}", f"{n} labels")
    with np.errstate(over="ignore"):
        finite = labels.dtype.kind != "f" or np.isfinite(labels.astype(np.float32)).all()
    if not finite:
        raise InputError(f"{path}: labels have NaN or infinite values", "finite values of float32")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        found = _integers(path, "labels", labels, n, classes)
        return scaled_labels(found, classes), "integer labels"
    if labels.shape != (n, classes):
        raise InputError(
            f"{path}: labels {labels.shape}",
            f"({n},) integers or ({n}, {classes}) numbers",
            "soft labels have a number for each class of the data set, also where the set has"
            " images of some classes only",
        )
    soft = labels.astype(np.float32)
    if soft.min() >= 0 and np.allclose(soft.sum(axis=1), 1, atol=1e-3):
        centred = (soft - np.float32(1 / classes)) / np.float32(np.sqrt(classes / 10))
        return centred, "labels that are probabilities, centred and scaled as our own"
    return soft, "soft labels, used as they are"


def _integers(path: Path, name: str, labels: np.ndarray, n: int, classes: int) -> np.ndarray:
    """Classes (n,) int32, or InputError."""
    if labels.shape != (n,) or labels.dtype.kind not in "uifb":
        raise InputError(f"{path}: {name} {labels.shape} {labels.dtype}", f"({n},) integers")
    if (labels != np.rint(labels)).any() or labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"{path}: {name} from {labels.min()} to {labels.max()}",
            f"whole numbers from 0 to {classes - 1}",
        )
    return labels.astype(np.int32)


def _check_counts(
    path: Path, hard: np.ndarray, class_names: tuple[str, ...], classes: np.ndarray
) -> None:
    counts = np.bincount(hard, minlength=len(class_names))
    others = np.setdiff1d(np.flatnonzero(counts), classes)
    if len(others):
        raise InputError(
            f"{path}: images of class {class_names[others[0]]!r}",
            "images of the classes that CLASSES names",
            "leave CLASSES out",
        )
    if counts[classes].min() != counts[classes].max():
        few, many = (int(classes[f(counts[classes])]) for f in (np.argmin, np.argmax))
        present = classes[counts[classes] > 0]
        partial = counts[few] == 0 and counts[present].min() == counts[many]
        raise InputError(
            f"{path}: {counts[few]} images of class {class_names[few]!r} and {counts[many]} of"
            f" class {class_names[many]!r}",
            "the same number of images of each class",
            f"if the set is of these classes only, give --gin.CLASSES={text_of(present)}"
            if partial
            else "of soft labels the largest one counts, unless an array hard_labels names the"
            " classes",
        )
