"""The published CIFAR-10 and CIFAR-100 files, binary or Python batches, unpacked or in a tar.

The Python batches are pickles; `pickles.parse_pickle` reads them without calling anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import decode_text, text_lines
from frepo_scale.data.archive import TARS, damage, members, read_up_to, truncated
from frepo_scale.data.sources.census import BESIDE, LEFTOVER, REPLACED, Census, leftover
from frepo_scale.data.sources.listing import Listing, Part, Poll
from frepo_scale.data.sources.pickles import parse_pickle

_PIXELS = 3 * 32 * 32
_MAX_FILE = 1 << 29  # the largest published file is 184 MB


@dataclass(frozen=True)
class _Variant:
    """One published form: its folder, its files, and whether they are pickles."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    pickled: bool


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))
_VARIANTS = {
    "cifar10": (
        _Variant(
            "cifar-10-batches-bin",
            tuple(f"{name}.bin" for name in _FIVE),
            "test_batch.bin",
            "batches.meta.txt",
            False,
        ),
        _Variant("cifar-10-batches-py", _FIVE, "test_batch", "batches.meta", True),
    ),
    "cifar100": (
        _Variant("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", False),
        _Variant("cifar-100-python", ("train",), "test", "meta", True),
    ),
}
_CLASSES = {"cifar10": 10, "cifar100": 100}
_NAMES_KEY = {"cifar10": "label_names", "cifar100": "fine_label_names"}


def _pickled(data: bytes, path: str) -> dict[str, Any]:
    """The dict of a Python batch."""
    try:
        return parse_pickle(data)
    except ValueError as error:
        raise truncated(Path(path), f"as a CIFAR pickle: {error}") from error


Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _from_pickle(name: str, data: bytes, path: str) -> Batch:
    """Pixels (n, 3072) uint8, labels (n,) and, for CIFAR-100, superclasses (n,) of a batch."""
    value = _pickled(data, path)
    pixels = value.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise truncated(Path(path), f"its 'data' is not a uint8 array of shape (n, {_PIXELS})")
    columns = []
    for key in ("labels",) if name == "cifar10" else ("fine_labels", "coarse_labels"):
        labels = value.get(key)
        good = isinstance(labels, list) and all(type(x) is int and 0 <= x < 256 for x in labels)
        if not good or len(labels) != len(pixels):  # type: ignore[arg-type]
            raise truncated(Path(path), f"its '{key}' is not a list of {len(pixels)} small numbers")
        columns.append(np.array(labels, np.uint8))
    return pixels, columns[0], columns[1] if len(columns) > 1 else None


def _from_binary(name: str, data: bytes, path: str) -> Batch:
    """Like `_from_pickle`, from records of label byte(s) and 3072 pixels."""
    heads = 1 if name == "cifar10" else 2  # CIFAR-100: superclass, class
    record = heads + _PIXELS
    if not data or len(data) % record:
        raise truncated(Path(path), f"{len(data)} bytes are not a multiple of {record}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return rows[:, heads:], rows[:, heads - 1], rows[:, 0] if heads == 2 else None


def _names(name: str, variant: _Variant, files: Mapping[str, bytes], origin: Path) -> list[str]:
    """The class names; numbers where their file is missing."""
    count = _CLASSES[name]
    data = files.get(variant.names)
    if data is None:
        return [str(i) for i in range(count)]
    path = f"{origin}/{variant.names}"
    if variant.pickled:
        names = _pickled(data, path).get(_NAMES_KEY[name])
    else:
        lines = text_lines(decode_text(data, path))
        names = [line.strip() for line in lines if line.strip()]
    if (
        not isinstance(names, list)
        or len(names) != count
        or not all(isinstance(n, str | bytes) for n in names)
        or len(set(names)) != count
    ):
        raise truncated(Path(path), f"it does not hold {count} class names")
    return [n.decode("latin1") if isinstance(n, bytes) else n for n in names]


def _check_pairs(labels: np.ndarray, coarse: np.ndarray, origin: Path) -> None:
    """In CIFAR-100 a class belongs to one superclass; otherwise a label is wrong."""
    pairs = np.unique(labels.astype(np.int64) * 256 + coarse)
    twice = np.flatnonzero(np.diff(pairs // 256) == 0)
    if len(twice):
        one, other = pairs[twice[0]], pairs[twice[0] + 1]
        detail = f"class {one // 256} is in superclass {one % 256} and in {other % 256}"
        raise truncated(origin, detail)


def _part(batches: list[Batch], part: str) -> Part:
    planes = np.concatenate([pixels for pixels, _, _ in batches]).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Part.of_arrays(images, np.concatenate([labels for _, labels, _ in batches]), part)


def _decode_batches(name: str, files: Mapping[str, bytes], origin: Path, census: Census) -> Listing:
    """The listing from the published files.

    Args:
      name: "cifar10" or "cifar100".
      files: their bytes by base name.
      origin: the folder or archive, for messages.
      census: has all entries but the rows of the batches.

    Raises:
      InputError: a file is missing, damaged, or contradicts the others.
    """
    variant = next(v for v in _VARIANTS[name] if {*v.train, v.test} & files.keys())
    read = _from_pickle if variant.pickled else _from_binary
    batches = []
    for wanted in (*variant.train, variant.test):
        if wanted not in files:
            raise InputError(
                f"{origin} has no {wanted}",
                "all of " + ", ".join((*variant.train, variant.test)),
                "download the archive again or unpack all of it",
            )
        batches.append(read(name, files[wanted], f"{origin}/{wanted}"))
    # The published files hold 10 000 images each, except CIFAR-100's train with five times that.
    counts = [len(labels) for _, labels, _ in batches]
    if any(c != counts[-1] * 5 // len(variant.train) for c in counts[:-1]):
        raise truncated(origin, f"its batches hold {counts} images, test last")
    if name == "cifar100":
        coarse = np.concatenate([c for _, _, c in batches if c is not None])
        _check_pairs(np.concatenate([labels for _, labels, _ in batches]), coarse, origin)
    census.see(sum(counts))
    return Listing(
        form="CIFAR batches",
        train=_part(batches[:-1], "train"),
        test=_part(batches[-1:], "test"),
        class_names=tuple(_names(name, variant, files, origin)),
        name=name,
        census=census,
    )


def _wanted(name: str) -> set[str]:
    """The base names of all files that hold images."""
    return {file for v in _VARIANTS[name] for file in (*v.train, v.test)}


class CifarFiles:
    """The published files of CIFAR-10 or CIFAR-100.

    Attributes:
      dataset: "cifar10" or "cifar100".
    """

    form = "the batches of CIFAR"

    def __init__(self, dataset: str) -> None:
        """The files of one of the two data sets."""
        self.dataset = dataset

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        if path.is_dir():
            return _unpacked(self.dataset, path) is not None
        return path.is_file() and path.name.endswith(TARS) and _is_archive(self.dataset, path)

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; an archive is read in one pass."""
        wanted = _wanted(self.dataset) | {v.names for v in _VARIANTS[self.dataset]}
        files: dict[str, bytes] = {}
        census = Census()
        folder = _unpacked(self.dataset, path) if path.is_dir() else None
        if folder is not None:
            for file in sorted(p for p in folder.iterdir() if p.name in wanted and p.is_file()):
                with damage(file), file.open("rb") as stream:
                    size = _limited(file, file.stat().st_size)
                    files[file.name] = bytes(read_up_to(stream, size))
            census.folder(folder, files)
            if folder != path:
                census.folder(path, (), {folder.name})
            return _decode_batches(self.dataset, files, folder, census)
        for member in members(path):
            poll()
            if member.kind == "folder":
                continue
            census.see()
            base = member.name.split("/")[-1]
            if (left := leftover(member.name)) is not None:
                census.ignore(LEFTOVER, left)
            elif member.kind == "file" and base in wanted:
                if base in files:
                    census.ignore(REPLACED, member.name)
                else:
                    census.hold()
                _limited(path / base, member.size)
                files[base] = member.read()
            else:
                census.ignore(BESIDE, member.name)
        return _decode_batches(self.dataset, files, path, census)


def _unpacked(name: str, path: Path) -> Path | None:
    """The folder with the unpacked files: `path` or its usual subfolder; None without them."""
    for folder in (path, *(path / v.folder for v in _VARIANTS[name])):
        if any((folder / file).is_file() for file in _wanted(name)):
            return folder
    return None


def _is_archive(name: str, path: Path) -> bool:
    """Whether a tar holds the published files, from the names of its first entries."""
    wanted = _wanted(name)
    for member in members(path):
        if member.kind == "file" and member.name.split("/")[-1] in wanted:
            return True
        if member.name.count("/") >= 2:  # deeper than a published archive goes
            return False
    return False


def _limited(path: Path, size: int) -> int:
    """`size`, if a published file may be that large."""
    if size > _MAX_FILE:
        raise truncated(path, f"{size} bytes are too many for a CIFAR file")
    return size
