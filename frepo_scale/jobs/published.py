"""What is known of the images of published data sets before they are read: how many there are."""

from typing import NamedTuple

from frepo_scale.core.errors import InputError
from frepo_scale.data.held_out import HELD_OUT_DIVISOR, HELD_OUT_LIMIT
from frepo_scale.data.sources.specs import spec_for
from frepo_scale.data.subset import chosen_classes, parse_chunk
from frepo_scale.jobs.settings import RunConfig


class Sizes(NamedTuple):
    """Training images of a data set as it was published.

    Attributes:
      images: of all classes.
      smallest: of the class with the fewest.
      largest: of the class with the most.
    """

    images: int
    smallest: int
    largest: int


_SIZES = {
    "mnist": Sizes(60_000, 5_421, 6_742),
    "fashion_mnist": Sizes(60_000, 6_000, 6_000),
    "cifar10": Sizes(50_000, 5_000, 5_000),
    "cifar100": Sizes(50_000, 500, 500),
    "tiny_imagenet": Sizes(100_000, 500, 500),
    "cub200": Sizes(5_994, 29, 30),
    "imagenet1k": Sizes(1_281_167, 732, 1_300),
}


def check_published(config: RunConfig) -> bool:
    """Checks `IPC` and `BATCH` against the published number of images; the data may have fewer.

    Returns:
      whether some training images are held out; True where the data set is not known.

    Raises:
      InputError: more images are asked for than were published.
    """
    data = config.data
    known = _SIZES.get(data.name)
    classes = spec_for(data.name).num_classes
    if known is None or classes is None or data.images != "real":
        return True
    chunk = parse_chunk(data.chunk_of)
    images, smallest, largest = (-(-n // chunk[1]) if chunk else n for n in known)
    count = len(chosen_classes(data.classes, classes))
    if data.classes is not None:  # which of the classes have how many is not known
        images, smallest = count * largest, largest
    in_a_class = smallest - _held_out(smallest, classes)
    if config.distill.ipc > in_a_class:
        raise InputError(
            f"IPC = {config.distill.ipc}: some class of {data.name} has at most {in_a_class}"
            " training images after the held-out part is set aside",
            f"at most {in_a_class}",
            f"use --gin.IPC={in_a_class}",
        )
    in_all = images - count * _held_out(smallest, classes)
    if data.batch > in_all:
        raise InputError(
            f"BATCH = {data.batch}: {data.name} has at most {in_all} training images after the"
            " held-out part is set aside",
            f"at most {in_all}",
            f"use --gin.BATCH={in_all}",
        )
    return _held_out(largest, classes) > 0


def _held_out(images: int, num_classes: int) -> int:
    """Held-out images of a class with so many, see `data.held_out`."""
    return min(images // HELD_OUT_DIVISOR, HELD_OUT_LIMIT // num_classes)
