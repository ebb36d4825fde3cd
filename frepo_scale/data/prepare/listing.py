"""Which images a source holds, and where each one's bytes are.

Every source comes down to ranges of bytes in files: an image file, a member of a tar, a member of
a tar inside a tar, the encoded image inside a TFRecord, a row of an array. So any image can be
read by any process in any order, and nothing is unpacked.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from frepo_scale.core.errors import InputError

NAME_ERRORS = "surrogateescape"  # file names may be any bytes
COPY = ""  # stands for the copy of the source that preparing makes where ranges need one


@dataclass(frozen=True)
class Part:
    """The images of one split, n of them, in an order that the source alone decides.

    Attributes:
      names: "<class>/<file>", for people and for the order of the records.
      labels: (n,) int32.
      paths: files that hold the images; `COPY` for the copy.
      files: (n,) int32, index into `paths`.
      offsets: (n,) int64, where each image begins.
      sizes: (n,) int64, its bytes.
      shape: (H, W, C) where the bytes are uint8 pixels; None where they are an image file.
    """

    names: list[str]
    labels: np.ndarray
    paths: list[str]
    files: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    shape: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        """n."""
        return len(self.names)

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
        """The images at `rows` (int64 index), as a part."""
        files = self.files[rows]
        used, files = np.unique(files, return_inverse=True)
        return Part(
            [self.names[row] for row in rows],
            self.labels[rows],
            [self.paths[file] for file in used],
            files.astype(np.int32),
            self.offsets[rows],
            self.sizes[rows],
            self.shape,
        )


class PartBuilder:
    """Collects the images of a part one by one."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, int, int, int, int]] = []
        self._paths: dict[str, int] = {}

    def __len__(self) -> int:
        """Images so far."""
        return len(self._rows)

    def add(self, name: str, label: int, path: str, offset: int, size: int) -> None:
        """One image: its name, label, file and range of bytes."""
        file = self._paths.setdefault(path, len(self._paths))
        self._rows.append((name, label, file, offset, size))

    def part(self, shape: tuple[int, int, int] | None = None) -> Part:
        """The images added, in that order."""
        names, labels, files, offsets, sizes = (
            zip(*self._rows, strict=True) if self._rows else 5 * ((),)
        )
        return Part(
            list(names),
            np.array(labels, np.int32),
            list(self._paths),
            np.array(files, np.int32),
            np.array(offsets, np.int64),
            np.array(sizes, np.int64),
            shape,
        )


@dataclass(frozen=True)
class Listing:
    """All images of a source.

    Attributes:
      form: the kind of source, for people.
      name: what the data set is called where the source says so.
      class_names: index = label, for people.
      wnids: WordNet ids in the order of the labels, where the classes have them.
      channels: C of the records.
      train: the training images.
      test: the test images; may be empty.
      notes: what was decided on the way, one line each.
      copy: writes the copy that `COPY` stands for; None: no image needs one.
      copy_bytes: its size.
      fit: how its makers made squares of the images, where they did; None: they are as they were.
    """

    form: str
    name: str | None
    class_names: tuple[str, ...]
    wnids: tuple[str, ...] | None
    channels: int
    train: Part
    test: Part
    notes: tuple[str, ...] = ()
    copy: Callable[[BinaryIO], None] | None = field(default=None, compare=False)
    copy_bytes: int = 0
    fit: str | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """Both parts by name; an empty test part is left out."""
        return {"train": self.train} | ({"test": self.test} if len(self.test) else {})

    def fingerprint(self) -> str:
        """sha256 of the names, labels and sizes of all images; not of their content."""
        digest = hashlib.sha256()
        for name, part in self.parts.items():
            digest.update(f"{name} {len(part)} {part.shape}\n".encode())
            digest.update("\n".join(part.names).encode(errors=NAME_ERRORS))
            digest.update(part.labels.astype("<i4").tobytes())
            digest.update(part.sizes.astype("<i8").tobytes())
        return digest.hexdigest()

    def check(self, origin: str) -> None:
        """Refuses labels out of range and classes without a training image."""
        count = len(self.class_names)
        if count < 2:
            raise InputError(f"{origin} has {count} class", "at least 2", "add a class")
        for part, images in self.parts.items():
            wrong = np.flatnonzero((images.labels < 0) | (images.labels >= count))
            if len(wrong):
                raise InputError(
                    f"label {images.labels[wrong[0]]} of {images.names[wrong[0]]} in the {part}"
                    f" part of {origin}",
                    f"0 to {count - 1}",
                    "fetch the data set again",
                )
        check_classes(self.train.labels, self.class_names, origin)


def check_classes(labels: np.ndarray, class_names: tuple[str, ...], origin: str) -> None:
    """Refuses training labels (n,) in which a class does not occur."""
    counts = np.bincount(labels, minlength=len(class_names))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise InputError(
            f"class {class_names[empty[0]]} has no training image in {origin}",
            f"images of all {len(class_names)} classes",
            "check that the copy is complete",
        )
