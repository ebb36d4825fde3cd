"""The images of a source before they are read, and the interface of every source.

An image is a range of bytes in a file (an image file, a member of a tar, a member of a tar inside a
tar, the encoded image inside a TFRecord), or a row of an array in memory. So any process can read
any image in any order, nothing is unpacked, and `prepare` and in-memory loading share one reader
(`data.images`).

Legend: n images of a part, H W height and width, C channels, K classes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from frepo_scale.data.sources.census import Census

NAME_ERRORS = "surrogateescape"  # file names may be any bytes
NO_TEST_PART = "no test part with classes: the set has training images only"
Poll = Callable[[], None]


class RangeFile(Protocol):
    """An open file whose images are not plain ranges of its bytes: a zip, records, parquet."""

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes of the image at `offset`, which counts what the form counts.

        Raises:
          UnreadableImage: this image alone is damaged; its name is left empty.
        """

    def close(self) -> None:
        """Closes the file."""


@dataclass(frozen=True)
class Part:
    """The images of one split, in an order that depends on the source alone.

    Attributes:
      names: "<class>/<file>", for messages and for the order of the records.
      labels: (n,) int64.
      paths: the files that hold the images.
      files: (n,) int32, index into `paths`.
      offsets: (n,) int64, where each image begins.
      sizes: (n,) int64, its bytes.
      compressed: whether a file can only be read from its beginning: `prepare` then copies the
        images first. Without `opener` the files are gzip files, offsets count decompressed bytes.
      shape: (H, W, C) where the bytes are uint8 pixels; None where they are an image file.
      pixels: (n, H, W, C) uint8; offsets are then those in this array and `paths` is not used.
      opener: opens one of `paths` where images are not plain ranges; a module-level name, because
        worker processes receive it.
    """

    names: list[str]
    labels: np.ndarray
    paths: list[str]
    files: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    compressed: bool = False
    shape: tuple[int, int, int] | None = None
    pixels: np.ndarray | None = None
    opener: Callable[[str], RangeFile] | None = None

    @staticmethod
    def of_arrays(images: np.ndarray, labels: np.ndarray, part: str) -> "Part":
        """The part of images in memory.

        Args:
          images: (n, H, W, C) uint8, C = 1 or 3.
          labels: (n,) integers.
          part: "train" or "test", for the names.

        Raises:
          ValueError: arrays of another kind.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 (n, H, W, 1|3)")
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {labels.shape}, not integers (n,)")
        if labels.dtype == np.uint64:
            labels = np.minimum(labels, np.uint64(np.iinfo(np.int64).max))
        labels = labels.astype(np.int64)
        count, height, width, channels = images.shape
        size = height * width * channels
        return Part(
            names=[f"{label}/{part}-{row:09}" for row, label in enumerate(labels.tolist())],
            labels=labels,
            paths=[""],
            files=np.zeros(count, np.int32),
            offsets=size * np.arange(count, dtype=np.int64),
            sizes=np.full(count, size, np.int64),
            shape=(height, width, channels),
            pixels=images,
        )

    def __len__(self) -> int:
        """n."""
        return len(self.names)

    def describe(self, row: int) -> str:
        """How a message names an image."""
        name, path = self.names[row], self.paths[self.files[row]]
        if self.pixels is not None or Path(path).name == name.rpartition("/")[2]:
            return path or f"image {row}"
        return f"{name} in {path}"

    def shuffled(self) -> "Part":
        """The same images in the order of their records: by a hash of their names.

        The classes are mixed, and the order is the same on every machine, for every number of
        workers, and for every form of the same data set.
        """
        keys = [
            hashlib.blake2b(name.encode(errors=NAME_ERRORS), digest_size=8).digest()
            for name in self.names
        ]
        order = sorted(range(len(keys)), key=lambda row: (keys[row], row))
        return self.take(np.array(order, np.int64))

    def take(self, rows: np.ndarray) -> "Part":
        """The images at `rows` (int64 index), as a part; not of arrays in memory."""
        used, files = np.unique(self.files[rows], return_inverse=True)
        return replace(
            self,
            names=[self.names[row] for row in rows],
            labels=self.labels[rows],
            paths=[self.paths[file] for file in used],
            files=files.astype(np.int32),
            offsets=self.offsets[rows],
            sizes=self.sizes[rows],
        )


class PartBuilder:
    """Collects the images of a part one by one."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, int, int, int]] = []
        self._paths: dict[str, int] = {}

    def add(self, name: str, label: int, path: str, offset: int, size: int) -> None:
        """Adds one image: its name "<class>/<file>", label, file and range of bytes."""
        file = self._paths.setdefault(path, len(self._paths))
        self._rows.append((name, label, file, offset, size))

    def part(
        self,
        compressed: bool = False,
        opener: Callable[[str], RangeFile] | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> Part:
        """The images added, in that order; the arguments are those of `Part`."""
        columns = zip(*self._rows, strict=True) if self._rows else 5 * ((),)
        names, labels, files, offsets, sizes = columns
        return Part(
            list(names),
            np.array(labels, np.int64),
            list(self._paths),
            np.array(files, np.int32),
            np.array(offsets, np.int64),
            np.array(sizes, np.int64),
            compressed,
            shape,
            opener=opener,
        )


class TestLike(NamedTuple):
    """Something that looks like a test part but is not read: what it is, and how to mend that."""

    what: str
    fix: str


@dataclass(frozen=True)
class Listing:
    """All images of a source.

    Attributes:
      form: the kind of source, for messages.
      train: the training images.
      test: the test images; may be empty.
      class_names: K names, index = label; None: the labels are numbers without names.
      wnids: WordNet ids in the order of the labels, where the classes have them.
      name: the name of the data set where the source gives one.
      notes: decisions made while listing, one line each.
      fit: how the images were made square before they were stored; None: they were not.
      census: all entries of the source; None: it is a source of the user's own without one.
      test_like: what looks like a test part, where `test` is empty; None: nothing does.
    """

    form: str
    train: Part
    test: Part
    class_names: tuple[str, ...] | None = None
    wnids: tuple[str, ...] | None = None
    name: str | None = None
    notes: tuple[str, ...] = ()
    fit: str | None = None
    census: Census | None = None
    test_like: TestLike | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """Both parts by name; an empty test part is left out."""
        return {"train": self.train} | ({"test": self.test} if len(self.test) else {})

    @property
    def channels(self) -> int | None:
        """C of arrays; None where images are files, which may be grey or in colour."""
        return None if self.train.shape is None else self.train.shape[2]

    def count(self, skipped: Sequence[tuple[str, str]] = ()) -> str:
        """What became of every entry, in one line; `skipped` are names and reasons of images."""
        images = len(self.train) + len(self.test)
        return (self.census or Census(images)).line(images, skipped)

    def fingerprint(self) -> str:
        """sha256 of the names, labels and sizes of all images; not of their content."""
        digest = hashlib.sha256()
        for name, part in self.parts.items():
            digest.update(f"{name} {len(part)} {part.shape}\n".encode())
            digest.update("\n".join(part.names).encode(errors=NAME_ERRORS))
            digest.update(part.labels.astype("<i4").tobytes())
            digest.update(part.sizes.astype("<i8").tobytes())
        return digest.hexdigest()


class Source(Protocol):
    """A form in which data sets are stored.

    The class is built without arguments. See docs/how-to/data-source.md for an example.
    """

    form: str  # a description of the files, for messages

    def matches(self, path: Path) -> bool:
        """Whether the file or folder at `path` has this form; must be fast."""

    def listing(self, path: Path, poll: Poll) -> Listing:
        """All images at `path`; no image is decoded here.

        Args:
          path: a file or folder for which `matches` is true.
          poll: to be called repeatedly; raises if the program is asked to stop.

        Raises:
          InputError: the data are damaged or incomplete.
        """
