"""The images of a listing in memory, decoded by a few threads.

Legend: n images of a part, R side in pixels, C channels.
"""

import os
import warnings
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import Decoded, UnreadableImage, deep_note
from frepo_scale.data.images import Target, decode_row, in_file_order, read_rows
from frepo_scale.data.sources.checks import all_equal, check_classes
from frepo_scale.data.sources.listing import Listing, Part
from frepo_scale.data.types import Split

_THREADS = min(8, os.cpu_count() or 1)
_GROUP = 32  # images per task: a task costs as much as decoding a small image
Result = tuple[int, Decoded | UnreadableImage]


@dataclass(frozen=True)
class Wanted:
    """The form into which images are decoded, and the images that are refused.

    Attributes:
      channels: C; None: that of arrays; of image files 1 if all are grey, else 3.
      resolution: R; None: all images must be squares of one size.
      fit: "crop" or "squash".
      sizes: sides of squares that images may have; None: any size and shape.
      skip_unreadable: how many undecodable files may be left out.
    """

    channels: int | None
    resolution: int | None
    fit: str
    sizes: frozenset[int] | None = None
    skip_unreadable: int = 0


@dataclass(frozen=True)
class Loaded:
    """The images of a source.

    Attributes:
      train: images (n, R, R, C) uint8, labels (n,) int32, in the order of the listing.
      test: likewise.
      native: whether every image had its final size already.
      skipped: names and reasons of the undecodable files that were left out.
      notes: findings about the pixels, one line each.
    """

    train: Split
    test: Split
    native: bool
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Decoded:
    """One part: `images` (n, R, R, C) where `good` (n,) bool, and what was found while decoding."""

    images: np.ndarray
    good: np.ndarray
    unreadable: list[tuple[str, str]]
    colour: bool
    native: bool
    deep: int = 0

    def split(self, labels: np.ndarray, channels: int) -> Split:
        """The readable images. Grey files are decoded as RGB: any channel of them is right."""
        images, labels = self.images[..., :channels], labels.astype(np.int32)
        if self.unreadable:
            images, labels = images[self.good], labels[self.good]
        return Split(np.ascontiguousarray(images), labels)


def load_images(listing: Listing, want: Wanted, origin: str) -> Loaded:
    """Reads all images of a listing.

    Args:
      listing: checked by `sources.checks.checked`.
      want: the form of the decoded images.
      origin: the path of the source, for messages.

    Raises:
      InputError: no test part, a size or number of channels that is not wanted, more undecodable
        files than `want.skip_unreadable`, or a class without a readable training image.
    """
    if not len(listing.test):
        like = listing.test_like
        raise InputError(
            f"the test part of {origin} is empty" + (f": {like.what}" if like else ""),
            "test images of every class (test/<class>/<image>, val/, valid/ or validation/)",
            like.fix
            if like
            else "move some images of each class from the train part to the test part",
        )
    train = _decode_part(listing.train, want, f"the train part of {origin}")
    if want.resolution is None:
        want = replace(want, sizes=frozenset(train.images.shape[1:2]))
    test = _decode_part(listing.test, want, f"the test part of {origin}")
    bad = sorted(train.unreadable + test.unreadable)
    if len(bad) > want.skip_unreadable:
        name, reason = bad[0]
        raise InputError(
            f"{len(bad)} unreadable images in {origin}, the first {name} ({reason})",
            f"at most {want.skip_unreadable} (SKIP_UNREADABLE)",
            f"repair or remove them, or use --gin.SKIP_UNREADABLE={len(bad)}",
        )
    channels = want.channels or (3 if train.colour or test.colour else 1)
    parts = (
        train.split(listing.train.labels, channels),
        test.split(listing.test.labels, channels),
    )
    check_classes(parts[0].labels, listing.class_names or (), origin)
    if not len(parts[1]):
        raise InputError(f"{origin} has no readable test image", "images", "repair some")
    check_varied(parts[0].images, origin)
    notes = deep_note(max(train.deep, test.deep))
    return Loaded(*parts, train.native and test.native, tuple(bad), notes)


def check_varied(images: np.ndarray, origin: str) -> None:
    """Refuses training images (n, H, W, C) that are all equal: nothing can be learnt of them."""
    if not any((image != images[0]).any() for image in images[1:]):
        raise all_equal(origin)


def _decode_part(part: Part, want: Wanted, where: str) -> _Decoded:
    """All images of a part; refuses sizes and channels that are not wanted."""
    if part.shape is not None and want.channels not in (None, part.shape[2]):
        raise InputError(
            f"images of {where} have {part.shape[2]} channels",
            f"{want.channels}",
            "check that this is the data set named",
        )
    images: np.ndarray | None = None
    good, unreadable = np.zeros(len(part), bool), []
    colour, native, side, deep = False, True, want.resolution, 0
    # closing: no thread and no open archive outlives a refusal.
    with warnings.catch_warnings(), closing(_results(part, want)) as results:
        warnings.simplefilter("ignore")  # Pillow's: such a file either decodes or is counted
        for row, result in results:
            if isinstance(result, UnreadableImage):
                unreadable.append((result.member, result.reason))
                continue
            side = side or result.height
            size = (result.height, result.width)
            if size != (side, side) or (want.sizes is not None and side not in want.sizes):
                name = f"images of {where} are" if part.shape else f"image {part.describe(row)} is"
                _check_size(name, size, side, want)
            if images is None:
                if part.pixels is not None and size == (side, side):
                    return _Decoded(part.pixels, ~good, [], not result.grey, True)
                images = np.empty((len(part), *result.pixels.shape), np.uint8)
            images[row], good[row] = result.pixels, True
            colour, native = colour or not result.grey, native and size == (side, side)
            deep = max(deep, result.deep)
    if images is None:
        images = np.empty((len(part), side or 1, side or 1, 3), np.uint8)
    return _Decoded(images, good, unreadable, colour, native, deep)


def _check_size(name: str, size: tuple[int, int], side: int, want: Wanted) -> None:
    """Refuses an image (H, W) of a size that is not wanted."""
    height, width = size
    if want.sizes is not None and (height != width or height not in want.sizes):
        raise InputError(
            f"{name} {width}x{height}",
            " or ".join(f"{s}x{s}" for s in sorted(want.sizes)),
            "check that this is the data set named, or use "
            + (f"--gin.RESOLUTION={height}" if height == width else "--gin.DATASET=folder"),
        )
    if want.resolution is None and (height != width or height != side):
        raise InputError(
            f"{name} {width}x{height}",
            f"squares of one size where RESOLUTION is None (the first has height {side})",
            "set RESOLUTION, and images are made squares of that size",
        )


def _results(part: Part, want: Wanted) -> Generator[Result, None, None]:
    """Every image of a part: read by this thread in file order, decoded by others.

    Few images are in flight at any time.
    """
    target = Target(want.channels, want.resolution, want.fit)
    if part.pixels is not None:
        for row, image in enumerate(part.pixels):
            yield row, decode_row(part, row, image, target)
        return

    def decode(group: list[tuple[int, bytes | UnreadableImage]]) -> list[Result]:
        return [(row, decode_row(part, row, data, target)) for row, data in group]

    flying: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(_THREADS, "decode") as threads:
        read = read_rows(part, in_file_order(part).tolist())
        while group := list(islice(read, _GROUP)):
            flying.append(threads.submit(decode, group))
            if len(flying) > 2 * _THREADS:
                yield from flying.popleft().result()
        while flying:
            yield from flying.popleft().result()
