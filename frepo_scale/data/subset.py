"""Parts of a data set: some of its classes, and disjoint chunks of its training images."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError

_CLASSES = "numbers and ranges of classes, each class once, such as '0-19' or '0-4,7'"
_CHUNK = "'i/n' with 0 <= i < n, such as '0/5' for the first of five chunks"
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_NUMBER = re.compile(r"(\d{1,9})/(\d{1,9})")


def canonical_classes(given: Any) -> str | None:
    """The one form of a choice of classes: '7,0-2,3' and [0, 1, 2, 3, 7] are '0-3,7'.

    Args:
      given: text, a number, or a list of numbers; None: all classes.

    Raises:
      InputError: it is none of these, a range is reversed, or a class is named twice.
    """
    if given is None:
        return None
    text = given
    if isinstance(given, list | tuple | int) and not isinstance(given, bool):
        numbers = given if isinstance(given, list | tuple) else (given,)
        if all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            text = ",".join(map(str, numbers))
    if not isinstance(text, str):
        raise InputError(f"CLASSES = {given!r}", _CLASSES)
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise InputError(f"CLASSES = {given!r}: {part.strip()!r}", _CLASSES)
        found.append((low, high))
    found.sort()
    joined = found[:1]
    for low, high in found[1:]:
        before = joined[-1]
        if low <= before[1]:
            raise InputError(f"CLASSES = {given!r} names class {low} twice", _CLASSES)
        if low == before[1] + 1:
            joined[-1] = (before[0], high)
        else:
            joined.append((low, high))
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in joined)


def text_of(classes: Iterable[int]) -> str:
    """The canonical text of some classes."""
    return str(canonical_classes([int(label) for label in classes]))


def chosen_classes(text: str | None, num_classes: int) -> np.ndarray:
    """The classes of a canonical text, ascending: (k,) int32; all of them for None.

    Raises:
      InputError: a class is not in [0, num_classes).
    """
    if text is None:
        return np.arange(num_classes, dtype=np.int32)
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    if ends[-1][-1] >= num_classes:
        raise InputError(
            f"CLASSES = {text!r} names class {ends[-1][-1]} of a data set with {num_classes}"
            " classes",
            f"classes from 0 to {num_classes - 1}",
        )
    return np.concatenate([np.arange(end[0], end[-1] + 1, dtype=np.int32) for end in ends])


def parse_chunk(given: Any) -> tuple[int, int] | None:
    """The (i, n) of the text 'i/n'; None for None.

    Raises:
      InputError: it is no such text, or i is not below n.
    """
    if given is None:
        return None
    match = _NUMBER.fullmatch(given.strip()) if isinstance(given, str) else None
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if number >= count:
        raise InputError(f"CHUNK_OF = {given!r}", _CHUNK)
    return number, count


def chunk_rows(labels: np.ndarray, number: int, count: int) -> np.ndarray:
    """Marks the images of chunk `number` of `count`: (n,) bool for labels (n,) int32.

    The chunks 0 to count - 1 are disjoint and together complete. The numbers of images of two
    chunks differ by at most one, and so do those of each class. Which images form a chunk is a
    function of the labels in their order alone, the same for every seed: runs with different seeds
    use the same chunks.
    """
    # Random, because neighbours in a file may be similar. Philox words never change between
    # versions of NumPy (see data.pipeline).
    words = np.random.Philox(key=[0, count]).random_raw(len(labels))
    dealt = np.lexsort((words, labels))  # by class, in random order, and dealt like cards
    chosen = np.zeros(len(labels), bool)
    chosen[dealt[number::count]] = True
    return chosen


def check_present(labels: np.ndarray, classes: np.ndarray, what: str) -> None:
    """Raises InputError unless each of `classes` (k,) is among labels (n,); `what` is named."""
    missing = np.setdiff1d(classes, labels)
    if len(missing):
        raise InputError(
            f"{what} has no training image of class {missing[0]}",
            "images of every class",
            "use fewer chunks",
        )
