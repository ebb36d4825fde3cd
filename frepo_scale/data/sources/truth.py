"""Tables with the class of every test image, where the images do not lie in class folders."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import decode_text, text_lines
from frepo_scale.data.sources.wordnet import (
    ORDER_FILES,
    find_devkit_file,
    ilsvrc_order,
    is_wnid,
)

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"
TRUTHS = (
    GROUND_TRUTH,
    "imagenet_2012_validation_synset_labels.txt",
    KAGGLE,
    "val_annotations.txt",
)
_AGAIN = "download it again"
_CSV_HEAD = "ImageId"


@dataclass(frozen=True)
class Truth:
    """A table as it was found.

    Attributes:
      origin: how a message names it.
      data: its bytes.
      folder: where files of the same download are.
    """

    origin: str
    data: bytes
    folder: Path

    def classes(self, images: Collection[str], known: Callable[[str], bool]) -> dict[str, str]:
        """The class of each image.

        The table has a line "image class ..." for each image, separated by commas, tabs or blanks,
        or only the class of image i in line i, as a name or as the devkit's id from 1.

        Args:
          images: their paths.
          known: whether a text is the name of a class.

        Raises:
          InputError: the table is not about exactly these images, or names other classes.
        """
        lines = text_lines(decode_text(self.data, self.origin))
        rows = [(number, _fields(line)) for number, line in enumerate(lines, 1) if line.strip()]
        if rows and rows[0][1][0] == _CSV_HEAD:
            rows = rows[1:]
        if all(len(row) == 1 for _, row in rows):
            return self._by_position([row[0] for _, row in rows], sorted(images, key=_by_number))
        by_name = {_stem(path): path for path in images} | {_base(path): path for path in images}
        classes: dict[str, str] = {}
        for number, row in rows:
            path = by_name.get(_base(row[0])) or by_name.get(_stem(row[0]))
            wrong = (
                "no such image"
                if path is None
                else "no class of the training part"
                if len(row) < 2 or not known(row[1])
                else "the image a second time"
                if path in classes
                else None
            )
            if wrong is not None or path is None:
                raise InputError(
                    f"line {number} of {self.origin}: {wrong} ({' '.join(row)[:80]!r})",
                    f"'image class', each of the {len(images)} images once",
                    _AGAIN,
                )
            classes[path] = row[1]
        missing = sorted(set(images) - classes.keys())
        if missing:
            raise InputError(f"{self.origin} has no line for {missing[0]}", "one for each", _AGAIN)
        return classes

    def _by_position(self, values: list[str], images: list[str]) -> dict[str, str]:
        """Line i is the class of image i."""
        if len(values) != len(images):
            raise InputError(
                f"{self.origin} has {len(values)} lines",
                f"{len(images)}, one for each test image",
                "check that both are complete",
            )
        if [_by_number(path)[0] for path in images] != list(range(1, len(images) + 1)):
            raise InputError(
                f"the test images, such as {images[0]}, are not numbered from 1 to {len(images)}",
                f"all images that {self.origin} lists, numbered at the end of their names",
                "check that both are complete, or write 'name wnid' for each image",
            )
        if not all(map(is_wnid, values)):
            values = self._in_order(values)
        return dict(zip(images, values, strict=True))

    def _in_order(self, values: list[str]) -> list[str]:
        """The wnids of ids in the devkit's own order."""
        order = ilsvrc_order(self.folder)
        if order is None:
            raise InputError(
                f"{self.origin} numbers the classes in the devkit's own order",
                f"a file with that order: {ORDER_FILES}",
                f"put one of them into {self.folder}",
            )
        for number, value in enumerate(values, 1):
            if not (value.isascii() and value.isdigit() and 1 <= int(value) <= len(order)):
                raise InputError(
                    f"line {number} of {self.origin}: {value[:80]!r}",
                    f"a class from 1 to {len(order)}",
                    _AGAIN,
                )
        return [order[int(value) - 1] for value in values]


def find_truth(folders: Iterable[Path], names: Iterable[str] = TRUTHS) -> Truth | None:
    """The first table of these names in the folders, or in the devkit there; None without one."""
    for folder in folders:
        for name in names:
            found = find_devkit_file(folder, name)
            if found is not None:
                return Truth(*found, folder)
    return None


def _fields(line: str) -> list[str]:
    """The fields of a line; names in a table with tabs may have blanks."""
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    return line.replace(",", " ").split() or [""]


def _base(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _stem(path: str) -> str:
    return _base(path).rsplit(".", 1)[0]


def _by_number(path: str) -> tuple[int, str]:
    """Sorts ILSVRC2012_val_00000010.JPEG after ..._9, with and without the zeros; 0: no number."""
    digits = re.search(r"(\d+)\.\w+$", _base(path), re.ASCII)
    return (int(digits[1]) if digits else 0), _base(path)
