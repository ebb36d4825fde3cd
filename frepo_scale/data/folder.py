"""Images in class folders, in a directory or a tar: listed, decoded by a few threads, stacked.

A tar is read once from front to back, so decoding and reading overlap and nothing is unpacked. A
plain tar is listed first (that only skips from header to header), so that a wrong layout is told
before the first image is decoded; a gzip cannot be skipped through, and is told afterwards.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import Member, damage, is_gzip, members, truncated
from frepo_scale.data.decode import MAX_BYTES, Decoded, UnreadableImage, decode_image, is_image
from frepo_scale.data.layout import ANNOTATIONS, PARTS, WORDS, Layout, is_visible, read_layout
from frepo_scale.data.types import Split

_THREADS = min(8, os.cpu_count() or 1)
_GROUP = 32  # images per task: a task costs as much as decoding a small image
_MAX_TEXT = 64 << 20
_DEPTH = 5  # one deeper than any known layout, so that what is too deep is seen and told

# An image on its way: its path and what gives its bytes.
Item = tuple[str, Callable[[], bytes]]


@dataclass(frozen=True)
class Wanted:
    """What images are to become, and what is refused.

    Attributes:
      channels: C; None: 1 if all files are grey, else 3.
      resolution: R; None: all files must be squares of one size.
      fit: "crop" or "squash".
      sizes: sides of squares that files may have; None: any size and shape.
      num_classes: K; None: any.
      skip_unreadable: how many undecodable files may be left out.
    """

    channels: int | None
    resolution: int | None
    fit: str
    sizes: frozenset[int] | None
    num_classes: int | None
    skip_unreadable: int


@dataclass(frozen=True)
class Folder:
    """What a directory or tar held.

    Attributes:
      train: images (n, R, R, C) uint8, labels (n,) int32, sorted by path.
      test: likewise.
      class_names: index = label.
      native: whether every image had its final size already.
      skipped: undecodable files left out.
      part: the folder that was the test part.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    native: bool
    skipped: int
    part: str


@dataclass
class _Gathered:
    """Decoded images by path, and what was seen on the way."""

    images: dict[str, np.ndarray] = field(default_factory=dict)
    colour: set[str] = field(default_factory=set)
    resized: set[str] = field(default_factory=set)
    unreadable: dict[str, str] = field(default_factory=dict)


def has_train(place: Path) -> bool:
    """Whether a directory has train/, itself or in one of its folders."""
    with damage(place):
        return any(os.path.isdir(folder / "train") for folder in (place, *place.iterdir()))


def _in_part(path: str) -> bool:
    """Whether a path leads into a part, at the root or below one top folder."""
    return is_visible(path) and any(name in PARTS for name in path.split("/")[:2])


def list_directory(place: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """Paths of images and folders relative to `place`, and the texts of the layout."""
    images: list[str] = []
    folders: list[str] = []
    texts: dict[str, str] = {}

    def visit(folder: Path, prefix: str, depth: int) -> None:
        with damage(folder), os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir():
                    # Only what can hold a part is entered: `place` may be somebody's home.
                    holds = depth == 0 and os.path.isdir(os.path.join(entry.path, "train"))
                    if depth < _DEPTH and is_visible(path) and (holds or _in_part(path)):
                        folders.append(path)
                        visit(Path(entry.path), path + "/", depth + 1)
                elif entry.name in (ANNOTATIONS, WORDS):
                    texts[entry.name] = _text(Path(entry.path).read_bytes, entry.stat().st_size)
                elif is_image(path) and _in_part(path):
                    images.append(path)

    visit(place, "", 0)
    return sorted(images), folders, texts


def _text(read: Callable[[], bytes], size: int) -> str:
    """A text of the layout; one that is far too large is no such text."""
    return read().decode("utf-8", "replace") if size <= _MAX_TEXT else ""


def _decode_group(items: list[Item], want: Wanted) -> list[tuple[str, Decoded | UnreadableImage]]:
    """Decodes a few images in one task; a failure is a result, not an exception."""
    done: list[tuple[str, Decoded | UnreadableImage]] = []
    for path, read in items:
        try:
            data = read()
            done.append((path, decode_image(data, path, want.channels, want.resolution, want.fit)))
        except OSError as error:
            done.append((path, UnreadableImage(path, str(error))))
        except UnreadableImage as error:
            done.append((path, error))
    return done


def _decode_all(
    items: Iterable[Item], want: Wanted
) -> Generator[tuple[str, Decoded | UnreadableImage], None, None]:
    """Decodes in threads, yields in the order given; few images are in flight at any time."""
    source = iter(items)
    flying: deque[Future[list[tuple[str, Decoded | UnreadableImage]]]] = deque()
    with ThreadPoolExecutor(_THREADS, "decode") as threads:
        while group := list(islice(source, _GROUP)):
            flying.append(threads.submit(_decode_group, group, want))
            if len(flying) > 2 * _THREADS:
                yield from flying.popleft().result()
        while flying:
            yield from flying.popleft().result()


def _check_size(path: str, size: tuple[int, int], first: str, side: int, want: Wanted) -> None:
    """Refuses an image of a size that is not wanted; `first` and `side`: what came first."""
    height, width = size
    if want.sizes is not None and (height != width or height not in want.sizes):
        raise InputError(
            f"image {path} is {width}x{height}",
            " or ".join(f"{s}x{s}" for s in sorted(want.sizes)),
            "check that this is the data set named",
        )
    if want.resolution is None and (height != width or height != side):
        raise InputError(
            f"image {path} is {width}x{height}",
            f"squares of one size where RESOLUTION is None ({first} has height {side})",
            "give RESOLUTION, and images are made squares of that size",
        )


def _gather(items: Iterable[Item], want: Wanted) -> _Gathered:
    """Decodes all items; refuses sizes that are not wanted."""
    got = _Gathered()
    first = ("", 0)
    # closing: no thread and no open archive outlives a refusal.
    with warnings.catch_warnings(), closing(_decode_all(items, want)) as results:
        warnings.simplefilter("ignore")  # Pillow's: such a file either decodes or is counted
        for path, result in results:
            got.images.pop(path, None)  # in a tar, a later entry of a name replaces the earlier
            got.unreadable.pop(path, None)
            if isinstance(result, UnreadableImage):
                got.unreadable[path] = result.reason
                continue
            size = (result.height, result.width)
            first = first if first[0] else (path, result.height)
            _check_size(path, size, *first, want)
            if want.resolution is not None and size != (want.resolution, want.resolution):
                got.resized.add(path)
            if not result.grey:
                got.colour.add(path)
            got.images[path] = result.pixels
    return got


def tar_images(place: Path, folders: set[str], texts: dict[str, str]) -> Iterator[Member]:
    """The images in the parts of a tar in stored order; folders and texts are noted on the way.

    Raises:
      InputError: the archive is damaged, or an image is a link or impossibly large.
    """
    for member in members(place):
        base = member.name.rsplit("/", 1)[-1]
        if member.kind == "folder":
            folders.add(member.name)
        elif member.kind == "file" and base in (ANNOTATIONS, WORDS):
            texts[base] = _text(member.read, member.size)
        elif is_image(base) and _in_part(member.name):
            if member.kind != "file":
                raise InputError(
                    f"image {member.name} in {place} is a link or a sparse file",
                    "plain files",
                    "pack it again with tar --dereference --hard-dereference",
                )
            if member.size > MAX_BYTES:
                raise truncated(place, f"image {member.name} claims {member.size} bytes")
            yield member


def _tar_items(
    place: Path, listed: set[str] | None, seen: set[str], folders: set[str], texts: dict[str, str]
) -> Iterator[Item]:
    """The images of a tar (only those in `listed`, if given); the rest is noted as it goes by."""
    for member in tar_images(place, folders, texts):
        seen.add(member.name)
        if listed is None or member.name in listed:
            data = member.read()
            yield member.name, lambda data=data: data  # type: ignore[misc]


def _read_tar(place: Path, want: Wanted) -> tuple[Layout, _Gathered]:
    """Layout and images of a tar, from one pass of decoding."""
    seen: set[str] = set()
    folders: set[str] = set()
    texts: dict[str, str] = {}
    listed: set[str] | None = None
    if not is_gzip(place):
        deque(_tar_items(place, set(), seen, folders, texts), maxlen=0)
        layout = read_layout(seen, folders, texts, str(place), want.num_classes)
        listed = {path for path, _ in layout.train + layout.test}
    got = _gather(_tar_items(place, listed, seen, folders, texts), want)
    return read_layout(seen, folders, texts, str(place), want.num_classes), got


def _read_directory(place: Path, want: Wanted) -> tuple[Layout, _Gathered]:
    """Layout and images of a directory."""
    images, folders, texts = list_directory(place)
    layout = read_layout(images, folders, texts, str(place), want.num_classes)

    def reader(path: str) -> Callable[[], bytes]:
        def read() -> bytes:
            size = (place / path).stat().st_size
            if size > MAX_BYTES:
                raise UnreadableImage(path, f"{size} bytes are too many")
            return (place / path).read_bytes()

        return read

    items = ((path, reader(path)) for path, _ in layout.train + layout.test)
    return layout, _gather(items, want)


def _stack(rows: list[tuple[str, int]], got: _Gathered, channels: int, origin: str) -> Split:
    """The images of one part in order; each is dropped from `got` as it is copied."""
    rows = [(path, label) for path, label in rows if path in got.images]
    if not rows:
        raise InputError(f"{origin} has a part without a readable image", "images", "add some")
    images = np.empty((len(rows), *got.images[rows[0][0]].shape[:2], channels), np.uint8)
    for row, (path, _) in enumerate(rows):
        images[row] = got.images.pop(path)[..., :channels]  # grey decoded as RGB: any channel
    return Split(images, np.array([label for _, label in rows], np.int32))


def read_folder(place: Path, want: Wanted) -> Folder:
    """Reads class folders from a directory, a .tar or a .tar.gz.

    Raises:
      InputError: wrong layout, damaged archive, unwanted size, or more undecodable files than
        `want.skip_unreadable`.
    """
    layout, got = (_read_directory if place.is_dir() else _read_tar)(place, want)
    used = {path for path, _ in layout.train + layout.test}
    bad = sorted(used & got.unreadable.keys())
    if len(bad) > want.skip_unreadable:
        raise InputError(
            f"{len(bad)} unreadable images in {place}, "
            f"the first {bad[0]} ({got.unreadable[bad[0]]})",
            f"at most {want.skip_unreadable} (SKIP_UNREADABLE)",
            "repair or remove them, or set SKIP_UNREADABLE to allow as many",
        )
    channels = want.channels or (3 if used & got.colour else 1)
    train = _stack(layout.train, got, channels, str(place))
    test = _stack(layout.test, got, channels, str(place))
    native = not used & got.resized
    return Folder(train, test, layout.class_names, native, len(bad), layout.part)
