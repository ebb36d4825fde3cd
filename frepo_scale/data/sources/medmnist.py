"""The .npz files of MedMNIST: train_images, train_labels (n, 1), and the same of val and test."""

import zipfile
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.census import BESIDE, OTHER_TEST, Census
from frepo_scale.data.sources.listing import Listing, Poll
from frepo_scale.data.sources.npz import open_array, open_npz, read_pair

_PARTS = ("train", "test")
_UNUSED = "val_images"
_ARRAYS = tuple(f"{part}_{kind}" for part in _PARTS for kind in ("images", "labels"))


class MedMnist:
    """An .npz with the arrays of MedMNIST; its validation part is not used."""

    form = "an .npz of MedMNIST"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        if not (path.is_file() and path.name.endswith(".npz")):
            return False
        try:
            with zipfile.ZipFile(path) as archive:
                return f"{_ARRAYS[0]}.npy" in archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False  # the other reader of .npz files says what is wrong

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        with open_npz(path) as archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist()]
            for name in _ARRAYS:
                if name not in names:
                    raise InputError(
                        f"{path} has no array {name} (its arrays: {', '.join(names)})",
                        f"arrays {', '.join(_ARRAYS)}",
                        "download it again",
                    )
            for part in _PARTS:
                _check_labels(archive, f"{part}_labels", path)
            train, test = (
                read_pair(archive, f"{part}_images", f"{part}_labels", path, part)
                for part in _PARTS
            )
            unused = 0
            if _UNUSED in names:
                with open_array(archive, _UNUSED, path) as (_, shape, _, _):
                    unused = shape[0] if shape else 0
        census = Census(len(train) + len(test) + unused + len(names))
        census.hold(len(_ARRAYS))
        census.ignore(OTHER_TEST, f"rows of {_UNUSED}", unused)
        for name in sorted({*names} - {*_ARRAYS}):
            census.ignore(BESIDE, f"array {name}")
        note = f"the {unused:,} images of {_UNUSED} are not used: a run holds out training images"
        return Listing(
            form="MedMNIST",
            train=train,
            test=test,
            notes=(note,) if unused else (),
            census=census,
        )


def _check_labels(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    """Refuses several labels for each image."""
    with open_array(archive, name, path) as (_, shape, _, _):
        if len(shape) == 2 and shape[1] > 1:
            raise InputError(
                f"array {name} in {path} has {shape[1]} labels for each image",
                "one class for each image, shape (n,) or (n, 1)",
                f"save one column as {name}, such as {name}[:, :1], in train and test alike",
            )
