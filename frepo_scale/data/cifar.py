"""The published CIFAR-10 and CIFAR-100 files, binary or Python batches, unpacked or in a tar.

The Python batches are pickles; `pickles.parse_pickle` reads them without running anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, members, read_up_to, truncated
from frepo_scale.data.pickles import PickledArray, parse_pickle
from frepo_scale.data.types import Split

_PIXELS = 3 * 32 * 32
_MAX_FILE = 1 << 29  # the largest published file is 184 MB


@dataclass(frozen=True)
class _Variant:
    """One published form: its folder, its files, and how it is written."""

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
    """The dict a Python batch consists of."""
    try:
        value = parse_pickle(data)
    except (ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        raise truncated(Path(path), f"as a CIFAR pickle: {error}") from error
    if not isinstance(value, dict):
        raise truncated(Path(path), "it holds no dict")
    return value


Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _from_pickle(name: str, data: bytes, path: str) -> Batch:
    """Pixels (n, 3072) uint8, labels (n,) and, for CIFAR-100, superclasses (n,) of a batch."""
    value = _pickled(data, path)
    array = value.get("data")
    pixels = array.value if isinstance(array, PickledArray) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise truncated(Path(path), f"its 'data' is no uint8 array of shape (n, {_PIXELS})")
    columns = []
    for key in ("labels",) if name == "cifar10" else ("fine_labels", "coarse_labels"):
        labels = value.get(key)
        good = isinstance(labels, list) and all(type(x) is int and 0 <= x < 256 for x in labels)
        if not good or len(labels) != len(pixels):  # type: ignore[arg-type]
            raise truncated(Path(path), f"its '{key}' is no list of {len(pixels)} small numbers")
        columns.append(np.array(labels, np.uint8))
    return pixels, columns[0], columns[1] if len(columns) > 1 else None


def _from_binary(name: str, data: bytes, path: str) -> Batch:
    """Like `_from_pickle`, from records of label byte(s) and 3072 pixels."""
    heads = 1 if name == "cifar10" else 2  # CIFAR-100: superclass, class
    record = heads + _PIXELS
    if not data or len(data) % record:
        raise truncated(Path(path), f"{len(data)} bytes are no whole number of {record}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return rows[:, heads:], rows[:, heads - 1], rows[:, 0] if heads == 2 else None


def _names(name: str, variant: _Variant, files: Mapping[str, bytes], origin: Path) -> list[str]:
    """The class names; numbers where their file is not there."""
    count = _CLASSES[name]
    data = files.get(variant.names)
    if data is None:
        return [str(i) for i in range(count)]
    path = f"{origin}/{variant.names}"
    if variant.pickled:
        names = _pickled(data, path).get(_NAMES_KEY[name])
    else:
        names = [line.strip() for line in data.decode("latin1").splitlines() if line.strip()]
    if (
        not isinstance(names, list)
        or len(names) != count
        or not all(isinstance(n, str | bytes) for n in names)
        or len(set(names)) != count
    ):
        raise truncated(Path(path), f"it does not hold {count} class names")
    return [n.decode("latin1") if isinstance(n, bytes) else n for n in names]


def _check_pairs(labels: np.ndarray, coarse: np.ndarray, origin: Path) -> None:
    """CIFAR-100 says each label twice: a class belongs to one superclass, else one is wrong."""
    pairs = np.unique(labels.astype(np.int64) * 256 + coarse)
    twice = np.flatnonzero(np.diff(pairs // 256) == 0)
    if len(twice):
        one, other = pairs[twice[0]], pairs[twice[0] + 1]
        detail = f"class {one // 256} is in superclass {one % 256} and in {other % 256}"
        raise truncated(origin, detail)


def decode_batches(
    name: str, files: Mapping[str, bytes], origin: Path
) -> tuple[Split, Split, tuple[str, ...]]:
    """The train and test parts and the class names from the published files.

    Args:
      name: "cifar10" or "cifar100".
      files: their bytes by base name.
      origin: the folder or archive, for messages.

    Returns:
      Splits with images (n, 32, 32, 3) uint8 and labels (n,) uint8; the class names.

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
                "fetch the archive again or unpack all of it",
            )
        batches.append(read(name, files[wanted], f"{origin}/{wanted}"))
    # The published files hold 10 000 images each, except CIFAR-100's train with five times that.
    counts = [len(labels) for _, labels, _ in batches]
    if any(c != counts[-1] * 5 // len(variant.train) for c in counts[:-1]):
        raise truncated(origin, f"its batches hold {counts} images, test last")
    if name == "cifar100":
        coarse = np.concatenate([c for _, _, c in batches if c is not None])
        _check_pairs(np.concatenate([labels for _, labels, _ in batches]), coarse, origin)
    parts = []
    for part in (batches[:-1], batches[-1:]):
        planes = np.concatenate([pixels for pixels, _, _ in part]).reshape(-1, 3, 32, 32)
        images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        parts.append(Split(images, np.concatenate([labels for _, labels, _ in part])))
    return parts[0], parts[1], tuple(_names(name, variant, files, origin))


def _wanted(name: str) -> set[str]:
    """The base names of all files that hold images."""
    return {file for v in _VARIANTS[name] for file in (*v.train, v.test)}


def find_batches(name: str, place: Path) -> Path | None:
    """The folder with unpacked batches: `place` or its usual subfolder; None if there is none."""
    folders = [place, *(place / v.folder for v in _VARIANTS.get(name, ()))]
    if name in _VARIANTS:
        for folder in folders:
            if any((folder / file).is_file() for file in _wanted(name)):
                return folder
    return None


def archive_holds_batches(name: str, path: Path) -> bool:
    """Whether a tar holds published batches, told by its first telling entry."""
    if name not in _VARIANTS:
        return False
    wanted = _wanted(name)
    for member in members(path):
        if member.kind == "file" and member.name.split("/")[-1] in wanted:
            return True
        if member.name.count("/") >= 2:  # deeper than a published archive goes
            return False
    return False


def read_batches(name: str, place: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Like `decode_batches`, from a folder or a tar (read in one pass)."""
    wanted = _wanted(name) | {v.names for v in _VARIANTS[name]}
    files: dict[str, bytes] = {}
    if place.is_dir():
        for path in sorted(p for p in place.iterdir() if p.name in wanted and p.is_file()):
            with damage(path), path.open("rb") as stream:
                files[path.name] = bytes(read_up_to(stream, _limited(path, path.stat().st_size)))
    else:
        for member in members(place):
            base = member.name.split("/")[-1]
            if member.kind == "file" and base in wanted:
                _limited(place / base, member.size)
                files[base] = member.read()
    return decode_batches(name, files, place)


def _limited(path: Path, size: int) -> int:
    """`size`, if a published file may be that large."""
    if size > _MAX_FILE:
        raise truncated(path, f"{size} bytes are too many for a CIFAR file")
    return size
