"""What every listing must satisfy, whatever its form.

Legend: n images of a part, C channels, K classes.
"""

from dataclasses import replace

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.listing import Listing, Part

_NAMED = 10  # classes named in a note


def checked(listing: Listing, origin: str, num_classes: int | None) -> Listing:
    """The listing with a name for every class.

    Args:
      listing: as its source made it.
      origin: its path, for messages.
      num_classes: K the data set must have; None: any from 2 on.

    A class without a test image is noted.

    Raises:
      InputError: no training image, a wrong number of classes, a label out of range, a class
        without a training image, or parts that differ in channels.
    """
    if listing.census is not None:
        listing.census.check(len(listing.train) + len(listing.test))
    if not len(listing.train):
        raise InputError(f"the train part of {origin} is empty", "images", "add some")
    if listing.class_names is None:
        listing = replace(listing, class_names=_numbers(listing.train, origin, num_classes))
    names = listing.class_names or ()
    if len(names) != num_classes if num_classes is not None else len(names) < 2:
        raise InputError(
            f"{origin} has {len(names)} class" + ("es" if len(names) != 1 else ""),
            str(num_classes) if num_classes is not None else "at least 2",
            "check that the copy is complete and is this data set",
        )
    for part, images in listing.parts.items():
        wrong = np.flatnonzero((images.labels < 0) | (images.labels >= len(names)))
        if len(wrong):
            row = int(wrong[0])
            image = f"image {row}" if images.shape is not None else images.describe(row)
            raise InputError(
                f"label {images.labels[row]} of {image} of the {part} part of {origin}",
                f"0 to {len(names) - 1}",
                "number the classes from 0, the same in train and test",
            )
    shapes = [part.shape for part in listing.parts.values() if part.shape is not None]
    if len({shape[2] for shape in shapes}) > 1:
        raise InputError(
            f"{origin} has {shapes[0][2]} channels in train and {shapes[1][2]} in test",
            "the same number in both",
            "save both grey or both in colour",
        )
    check_classes(listing.train.labels, names, origin)
    return replace(listing, notes=(*listing.notes, *_untested(listing.test.labels, names)))


def _numbers(train: Part, origin: str, num_classes: int | None) -> tuple[str, ...]:
    """Names for classes that have none."""
    count = int(train.labels.max()) + 1 if num_classes is None else num_classes
    if count > max(len(train), num_classes or 0):  # names for so many would not fit into memory
        raise InputError(
            f"the largest label of {origin} is {count - 1}",
            f"classes numbered from 0 without gaps (there are {len(train)} images)",
            "number them so",
        )
    return tuple(map(str, range(count)))


def _untested(labels: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """A note on the classes that do not occur in test labels (n,), where there are any."""
    if not len(labels):
        return []
    empty = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    listed = ", ".join(names[row] for row in empty[:_NAMED]) + (", ..." * (len(empty) > _NAMED))
    one = len(empty) == 1
    what = f"class {listed} has" if one else f"{len(empty)} classes ({listed}) have"
    return [f"{what} no test image"] if len(empty) else []


def all_equal(origin: str) -> InputError:
    """The error for training images that do not differ."""
    return InputError(
        f"all training images of {origin} are equal",
        "images that differ",
        "check how they were saved: floats in [0, 1] must not be cut to whole numbers",
    )


def check_classes(labels: np.ndarray, class_names: tuple[str, ...], origin: str) -> None:
    """Refuses training labels (n,) in which a class does not occur."""
    empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if len(empty):
        raise InputError(
            f"class {class_names[empty[0]]} has no training image in {origin}",
            f"images of all {len(class_names)} classes",
            "check that the copy is complete and is this data set; number classes without gaps",
        )
