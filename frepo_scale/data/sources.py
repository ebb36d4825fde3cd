"""The data sets known by name, where they are looked for, and reading any of them.

`load` finds out which form is there (prepared, idx, CIFAR batches, class folders in a directory or
tar, .npz), leaves reading to the module of that form, and checks what all forms have in common.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frepo_scale.core.checks import check_choice, check_int
from frepo_scale.core.errors import InputError, nearest
from frepo_scale.core.paths import looks_like_url
from frepo_scale.data.archive import damage
from frepo_scale.data.cifar import archive_holds_batches, find_batches, read_batches
from frepo_scale.data.decode import FITS, to_square
from frepo_scale.data.digits import read_digits
from frepo_scale.data.folder import Wanted, has_train, read_folder
from frepo_scale.data.idx import find_idx, read_idx_set
from frepo_scale.data.npz import read_npz
from frepo_scale.data.prepared import is_prepared, read_prepared
from frepo_scale.data.types import RawDataset, Split

_TARS = (".tar", ".tar.gz", ".tgz")
_ANY = (
    "train/<class>/<image> and test/<class>/<image> in a folder or a .tar[.gz], "
    "or an .npz with x_train, y_train, x_test, y_test"
)
_IDX = (
    "the idx files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
    f"t10k-labels-idx1-ubyte (.gz or not), or {_ANY}"
)

# The one set whose files hold numbers only, while its classes have names everybody uses.
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before it is read.

    Attributes:
      name: what recipes call it.
      num_classes: K; None: whatever the user's data have.
      resolution: R, the default side in pixels; None: as stored.
      channels: C, 1 or 3; None: as stored.
      zca: whether its images are whitened (where a user's are grey, they are not).
      augment_flip: whether a mirrored image is still of its class.
      default_dirs: where it is looked for when no place is given, in this order.
      form: how the data must be there, for the message when they are not.
      any_size: whether files may have any size and shape; else squares of side R.
    """

    name: str
    num_classes: int | None
    resolution: int | None
    channels: int | None
    zca: bool
    augment_flip: bool
    default_dirs: tuple[str, ...]
    form: str
    any_size: bool = False


def _colour(
    name: str, num_classes: int, resolution: int, form: str, any_size: bool = False
) -> DatasetSpec:
    """A published data set of photographs."""
    dirs = (f"data/{name}",)
    return DatasetSpec(name, num_classes, resolution, 3, True, True, dirs, form, any_size)


def _grey(name: str, resolution: int, form: str, *dirs: str) -> DatasetSpec:
    """A published data set of ten grey classes that a mirror would change."""
    return DatasetSpec(name, 10, resolution, 1, False, False, dirs, form)


_ALL = (
    _grey("digits", 8, f"nothing (it comes with scikit-learn), or {_ANY}"),
    _grey("mnist", 28, _IDX, "data/mnist"),
    _grey("fashion_mnist", 28, _IDX, "data/fashion_mnist", "/usr/share/datasets/fashion-mnist"),
    _colour(
        "cifar10",
        10,
        32,
        f"cifar-10-binary.tar.gz, cifar-10-python.tar.gz, one of them unpacked, or {_ANY}",
    ),
    _colour(
        "cifar100",
        100,
        32,
        f"cifar-100-binary.tar.gz, cifar-100-python.tar.gz, one of them unpacked, or {_ANY}",
    ),
    _colour(
        "tiny_imagenet",
        200,
        64,
        "tiny-imagenet-200 unpacked (train/<wnid>/images/*.JPEG, val/images/*.JPEG, "
        f"val/val_annotations.txt) or in a .tar[.gz], or {_ANY}",
    ),
    *(
        _colour(
            name,
            10,
            128,
            f"{name}2 unpacked (train/<wnid>/*.JPEG, val/<wnid>/*.JPEG) or in a .tar[.gz] or .tgz,"
            f" what frepo-scale prepare makes of it, or {_ANY}",
            any_size=True,
        )
        for name in ("imagenette", "imagewoof")
    ),
    _colour("imagenet1k", 1000, 64, f"what frepo-scale prepare makes, or {_ANY}", any_size=True),
    DatasetSpec("folder", None, None, None, True, True, (), _ANY, any_size=True),
    DatasetSpec("npz", None, None, None, True, True, (), _ANY, any_size=True),
)
SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in _ALL}


def spec_for(name: str) -> DatasetSpec:
    """The facts of a data set; `InputError` with the nearest names when there is none."""
    if not isinstance(name, str) or name not in SPECS:
        raise InputError(f"data set {name!r}", "a known data set", nearest(str(name), SPECS))
    return SPECS[name]


def _archives(place: Path) -> list[Path]:
    """The tars and .npz files of a folder."""
    with damage(place):
        files = sorted(path for path in place.iterdir() if path.is_file())
    return [path for path in files if path.name.endswith((*_TARS, ".npz")) and path.name[0] != "."]


def _find(spec: DatasetSpec, place: Path) -> tuple[str, Path] | None:
    """The form found at `place` and its path; None if nothing known is there.

    Unpacked data go before archives, because archives are often left beside what was unpacked.
    """
    if place.is_file():
        if place.name.endswith(".npz"):
            return "npz", place
        if place.name.endswith(_TARS):
            return ("batches" if archive_holds_batches(spec.name, place) else "folder"), place
        return None
    if is_prepared(place):
        return "prepared", place
    if spec.name in ("mnist", "fashion_mnist") and find_idx(place):
        return "idx", place
    batches = find_batches(spec.name, place)
    if batches is not None:
        return "batches", batches
    if has_train(place):
        return "folder", place
    archives = _archives(place)
    if len(archives) > 1:
        raise InputError(
            f"{place} holds several archives: {', '.join(path.name for path in archives)}",
            f"one data set ({spec.name!r})",
            f"name one with --gin.DATA_DIR={archives[0]}",
        )
    return _find(spec, archives[0]) if archives else None


def _locate(spec: DatasetSpec, data_dir: str | None) -> tuple[str, Path]:
    """The form and path of a data set; the first of the usual places where there is one."""
    places = spec.default_dirs if data_dir is None else (os.path.expanduser(data_dir),)
    if not places:
        raise InputError(
            f"data set {spec.name!r} needs a place", spec.form, "name it with --gin.DATA_DIR=PATH"
        )
    if looks_like_url(places[0]):
        raise InputError(
            f"DATA_DIR = {data_dir} is a URL",
            f"a local path: {spec.form}",
            "mount the bucket, or copy the data, on every machine (a pod's: launch/tpu_pod.sh"
            " --setup) and name the place with --gin.DATA_DIR=PATH",
        )
    there = [Path(place) for place in places if Path(place).exists()]
    for place in there:
        found = _find(spec, place)
        if found is not None:
            return found
    if there:
        raise InputError(
            f"no data of a known form for {spec.name!r} at {there[0]}",
            spec.form,
            "put them there or name the place with --gin.DATA_DIR=PATH",
        )
    raise InputError(
        f"data set {spec.name!r} not found at {places[0]}",
        spec.form,
        "put it there or name the place with --gin.DATA_DIR=PATH",
    )


def _sizes(spec: DatasetSpec, resolution: int | None) -> frozenset[int] | None:
    """Sides that stored images may have: the published one, or the one asked for."""
    if spec.any_size:
        return None
    return frozenset(side for side in (spec.resolution, resolution) if side is not None)


def _check_arrays(spec: DatasetSpec, split: Split, want: Wanted, where: str) -> None:
    """Refuses arrays of another size or number of channels than the data set has."""
    _, height, width, channels = split.images.shape
    if spec.channels not in (None, channels):
        raise InputError(
            f"images of {where} have {channels} channels",
            f"{spec.channels} ({spec.name!r})",
            "check that this is the data set named",
        )
    if want.sizes is not None and (height != width or height not in want.sizes):
        raise InputError(
            f"images of {where} are {width}x{height}",
            f"{' or '.join(f'{s}x{s}' for s in sorted(want.sizes))} ({spec.name!r})",
            "check that this is the data set named",
        )


def _squares(split: Split, resolution: int, fit: str) -> Split:
    """The images as (n, R, R, C)."""
    if split.images.shape[1:3] == (resolution, resolution):
        return split
    images = np.empty((len(split), resolution, resolution, split.images.shape[3]), np.uint8)
    for row, image in enumerate(split.images):
        images[row] = to_square(image, resolution, fit)
    return Split(images, split.labels)


def _fit_arrays(
    spec: DatasetSpec, parts: tuple[Split, Split], want: Wanted, origin: Path | str
) -> tuple[Split, Split, bool]:
    """Both parts checked and as squares of one size, and whether they were that already."""
    train, test = parts
    for part, split in (("train", train), ("test", test)):
        if not len(split):
            raise InputError(f"the {part} part of {origin} is empty", "images", "add some")
        _check_arrays(spec, split, want, f"the {part} part of {origin}")
    shapes = train.images.shape[1:], test.images.shape[1:]
    if shapes[0][2] != shapes[1][2]:
        raise InputError(
            f"{origin} has {shapes[0][2]} channels in train and {shapes[1][2]} in test",
            "the same",
            "save both grey or both in colour",
        )
    side = want.resolution
    if side is None:
        side = shapes[0][0]
        if shapes[0] != shapes[1] or shapes[0][1] != side:
            raise InputError(
                f"images of {origin} are {shapes[0][1]}x{shapes[0][0]} in train and "
                f"{shapes[1][1]}x{shapes[1][0]} in test",
                "squares of one size where RESOLUTION is None",
                "give RESOLUTION, and images are made squares of that size",
            )
    native = all(shape[:2] == (side, side) for shape in shapes)
    return _squares(train, side, want.fit), _squares(test, side, want.fit), native


def _check_labels(
    train: np.ndarray, test: np.ndarray, classes: int | None, origin: Path | str
) -> int:
    """The number of classes; refuses labels out of range and classes without a train image."""
    present = np.unique(train)
    count = classes if classes is not None else int(present[-1]) + 1
    for part, labels in (("train", train), ("test", test)):
        bad = (labels < 0) | (labels >= count)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"label {labels[row]} of image {row} of the {part} part of {origin}",
                f"0 to {count - 1}",
                "number the classes from 0, the same in train and test",
            )
    if len(present) < count:  # compared in order: `count` may be far too large to list
        empty = next((i for i, label in enumerate(present) if label != i), len(present))
        raise InputError(
            f"class {empty} has no image in the train part of {origin}",
            f"images of all {count} classes",
            "add some or number the classes without gaps",
        )
    if count < 2:
        raise InputError(f"{origin} has 1 class", "at least 2", "add a class")
    return count


def load(
    name: str,
    data_dir: str | None,
    resolution: int | None = None,
    fit: str = "crop",
    skip_unreadable: int = 0,
    on_disk: Callable[[int], bool] = lambda pixels: False,
) -> RawDataset:
    """Reads a data set into memory, or opens a prepared one.

    Args:
      name: a name in `SPECS`.
      data_dir: a folder, or directly a .tar, .tar.gz, .tgz or .npz; None: the usual places.
      resolution: R; None: the data set's own (a user's data: as stored, if all are equal squares).
      fit: how images of other sizes become R x R: "crop" (the largest centred square) or
        "squash".
      skip_unreadable: how many image files that cannot be decoded may be left out.
      on_disk: asked about a prepared set, with the bytes of its pixels: whether its images stay
        where they are, to be read when they are needed.

    Returns:
      images (n, R, R, C) uint8 and labels (n,) int32 in [0, K), every class in train; `fit` is
      "native" where no image had to be resized.

    Raises:
      InputError: unknown name, data not there or of no known form, damaged, or not this data set.
    """
    spec = spec_for(name)
    if resolution is not None:
        check_int("RESOLUTION", resolution, low=1)
    check_choice("FIT", fit, FITS)
    check_int("SKIP_UNREADABLE", skip_unreadable, low=0)
    side = resolution if resolution is not None else spec.resolution
    sizes = _sizes(spec, resolution)
    want = Wanted(spec.channels, side, fit, sizes, spec.num_classes, skip_unreadable)
    names: tuple[str, ...] | None = _FASHION if name == "fashion_mnist" else None
    origin: Path | str
    if name == "digits" and data_dir is None:
        form, origin = "digits", "scikit-learn"
    else:
        form, origin = _locate(spec, data_dir)
    if form == "prepared":
        asked = fit if fit != FITS[0] else None  # recipes that do not care have the first one too
        return read_prepared(
            Path(origin), name, spec.num_classes, side, spec.channels, asked, on_disk
        )
    if form == "folder":
        found = read_folder(Path(origin), want)
        names, skipped, native = found.class_names, found.skipped, found.native
        train, test = found.train, found.test
    else:
        if form == "digits":
            parts = read_digits()
        elif form == "idx":
            parts = read_idx_set(Path(origin))
        elif form == "npz":
            parts = read_npz(Path(origin))
        else:
            *both, names = read_batches(name, Path(origin))
            parts = (both[0], both[1])
        skipped = 0
        train, test, native = _fit_arrays(spec, parts, want, origin)
    known = spec.num_classes or (len(names) if names else None)
    count = _check_labels(train.labels, test.labels, known, origin)
    train, test = (Split(s.images, s.labels.astype(np.int32)) for s in (train, test))
    names = names or tuple(str(label) for label in range(count))
    height, width, channels = train.images.shape[1:]
    return RawDataset(
        name,
        names,
        train,
        test,
        (height, width, channels),
        "native" if native else fit,
        skipped,
        str(origin),
    )
