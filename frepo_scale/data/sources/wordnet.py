"""ImageNet's classes: WordNet ids, and the two orders in which they are numbered.

Here, as in most software, classes are numbered by sorted WordNet id (wnid). The ILSVRC devkit, and
with it the downsampled ImageNet (`imagenet_resized`), numbers them from 1 in another order, which
only the devkit's tables give: the labels alone do not show which order they are in.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import decode_text, text_lines
from frepo_scale.data.archive import damage, members

_WNID = re.compile(r"n\d{8}")
TABLE = "map_clsloc.txt"
_META = "meta.mat"
_DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
DEVKIT_FILES = (_DEVKIT, TABLE, _META, "data/", "devkit/", f"{_DEVKIT.split('.')[0]}/")
ORDER_FILES = f"{_DEVKIT}, data/{_META} out of it, or {TABLE}"
_MAX_TEXT = 64 << 20


def wnids_of(names: Sequence[str]) -> tuple[str, ...] | None:
    """The names, if all of them are WordNet ids."""
    return tuple(names) if names and all(_WNID.fullmatch(name) for name in names) else None


def is_wnid(text: str) -> bool:
    """Whether a text is a WordNet id."""
    return _WNID.fullmatch(text) is not None


def to_sorted(names: Sequence[str]) -> np.ndarray:
    """(K,) int32: for each label of the order given, its label in the order of sorted names."""
    target = np.empty(len(names), np.int32)
    target[np.argsort(np.array(names, str), kind="stable")] = np.arange(len(names))
    return target


def find_devkit_file(folder: Path, name: str) -> tuple[str, bytes] | None:
    """A file of the devkit beside the data: its path and its bytes; None without it."""
    folders = (folder, folder / "data", folder / "devkit" / "data")
    for path in [parent / name for parent in (*folders, folder / _DEVKIT.split(".")[0] / "data")]:
        if path.is_file():
            with damage(path):
                return str(path), path.read_bytes()
    devkit = folder / _DEVKIT
    if devkit.is_file():
        for member in members(devkit):
            if member.name.rsplit("/", 1)[-1] == name and member.size <= _MAX_TEXT:
                return f"{name} in {devkit}", member.read()
    return None


def ilsvrc_order(folder: Path) -> list[str] | None:
    """The wnids in the devkit's order (ids 1, 2, ...), from its tables beside the data.

    Raises:
      InputError: a table is damaged.
    """
    table = find_devkit_file(folder, TABLE)
    if table is not None:
        text = decode_text(table[1], table[0])
        rows = [line.split() for line in text_lines(text) if line.strip()]
        pairs = {row[1]: row[0] for row in rows if len(row) >= 2}
        expected = "'wnid id name' in every line, ids from 1 without gaps"
        return _ordered(pairs, len(rows), table[0], expected)
    meta = find_devkit_file(folder, _META)
    if meta is None:
        return None
    from scipy.io import loadmat  # not at the top: only this table needs it

    try:
        synsets = loadmat(io.BytesIO(meta[1]), squeeze_me=True)["synsets"]
        leaves = [row for row in synsets.tolist() if int(row[4]) == 0]  # others are super-classes
        pairs = {str(int(row[0])): str(row[1]) for row in leaves}
    except Exception as error:  # SciPy's reader raises nearly every type there is
        raise InputError(
            f"{meta[0]} cannot be read ({error})", "the devkit's own file", "download it again"
        ) from error
    return _ordered(pairs, len(leaves), meta[0], "the devkit's own file")


def _ordered(pairs: dict[str, str], rows: int, origin: str, expected: str) -> list[str]:
    """The wnids of ids 1, 2, ..., `rows`, from id to wnid; the ids must differ."""
    wnids = [pairs.get(str(number), "") for number in range(1, rows + 1)]
    if not wnids or not all(map(is_wnid, wnids)) or len(set(wnids)) < len(wnids):
        raise InputError(f"{origin} does not number WordNet ids", expected, "download it again")
    return wnids
