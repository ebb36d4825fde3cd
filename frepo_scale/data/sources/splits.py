"""The files of a data set stored in shards, by split: WebDataset's tars and Parquet.

Recognised: `<name>-<split>-<number>[-of-<number of shards>]<ending>` in a folder, and
`<split>/<number><ending>` in folders of the splits.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage
from frepo_scale.data.sources.census import (
    OTHER_TEST,
    UNLABELLED,
    Census,
    is_leftover,
    looks_like_test,
)
from frepo_scale.data.sources.listing import TestLike

SPLITS = ("train", "test", "validation", "valid", "val")
TEST_SPLITS = SPLITS[1:]  # the first whose images have classes is the test part
_NUMBER = r"(?P<number>\d+)(?:-of-(?P<shards>\d+))?"
_HASH = r"(?:-[0-9a-f]{8,})?"  # older Hugging Face files end with one
_NAMED = re.compile(
    rf"(?:(?P<head>.+?)[-_.])?(?P<split>{'|'.join(SPLITS)})(?:[-_.]?{_NUMBER})?{_HASH}"
)
_BELOW = re.compile(rf"(?:(?P<head>.+?)[-_.])?{_NUMBER}{_HASH}")  # in a folder of its split


@dataclass(frozen=True)
class Shards:
    """The shards of a data set.

    Attributes:
      root: the path of the source.
      folder: the folder that holds them or the folders of the splits: `root` or one below it.
      splits: the files of each split, in order.
    """

    root: Path
    folder: Path
    splits: dict[str, list[Path]]

    def check(self) -> None:
        """Raises InputError where a shard is missing, or shards are of several data sets."""
        for split, files in self.splits.items():
            matches = [m for m in (_match(f, (f.suffix, ".tar.gz")) for f in files) if m]
            numbers = sorted(int(m["number"] or 0) for m in matches)
            count = max((int(m["shards"] or 0) for m in matches), default=0)
            first = 0 if count else min(numbers[0], 1)
            wanted = range(first, first + (count or len(files)))
            if numbers == list(wanted) and len({m["head"] for m in matches}) == 1:
                continue
            gap = next((number for number in wanted if number not in numbers), None)
            missing = f"number {gap} is missing" if gap is not None else "of several data sets"
            raise InputError(
                f"{self.folder} has {len(files)} files of {split}, {missing}",
                "every file of one data set",
                "download the missing ones, or move those of other data sets away",
            )

    def count(
        self, census: Census, read: tuple[str, ...], also_held: tuple[str, ...]
    ) -> TestLike | None:
        """Counts the files: those of the splits `read` and the tables `also_held` are held.

        Returns:
          What looks like a test part and is not read, where `read` has none.
        """
        used = [file for split in read for file in self.splits.get(split, [])]
        others = [file for s, files in self.splits.items() if s not in read for file in files]
        below = {file.parent for file in [*used, *others]} - {self.folder}
        held = {file.name for file in [*used, *others] if file.parent == self.folder}
        for folder in below:
            names = {file.name for file in [*used, *others] if file.parent == folder}
            census.folder(folder, names)
        named = {folder.name for folder in below}
        beside = census.folder(self.folder, {*held, *also_held}, named)
        if self.root != self.folder:
            beside += census.folder(self.root, (), {self.folder.name})
        census.hold(-len(others))
        for file in others:
            census.ignore(OTHER_TEST if len(read) > 1 else UNLABELLED, file.name)
        if len(read) > 1:
            return None
        if others:
            return TestLike(
                f"{others[0].name} has images without classes",
                "store the number of its class with every image, or name files of another split"
                " that has classes like the training files, with validation or test for train",
            )
        like = next(filter(looks_like_test, beside), None)
        if like is None:
            return None
        ending = "".join(used[0].suffixes[-1:])
        return TestLike(
            f"{like} looks like a test part",
            f"store it like the training files, in {self.folder / f'test-00000-of-00001{ending}'}",
        )


def find_shards(path: Path, endings: tuple[str, ...]) -> Shards | None:
    """The shards in `path` or in one folder below it; None without training shards.

    Raises:
      InputError: several folders hold a data set, or `path` is one part of a set.
    """
    splits = _by_split(path, endings)
    whole = path.absolute().parent
    with damage(path):
        one = path.absolute().name in SPLITS and any(_match(f, endings) for f in path.iterdir())
        if one and len(_by_split(whole, endings)) > 1:
            raise InputError(
                f"{path} is one part of a data set", "the folder of all parts", f"give {whole}"
            )
        if "train" in splits:
            return Shards(path, path, splits)
        below = sorted(f for f in path.iterdir() if f.is_dir() and not is_leftover(f.name))
    found = [f for f in below if f.name not in SPLITS and "train" in _by_split(f, endings)]
    if len(found) > 1:
        raise InputError(
            f"{path} holds several data sets: {', '.join(folder.name for folder in found)}",
            "one data set",
            f"give the path of one, such as {found[0]}",
        )
    return Shards(path, found[0], _by_split(found[0], endings)) if found else None


def _by_split(folder: Path, endings: tuple[str, ...]) -> dict[str, list[Path]]:
    """The shards of a folder and of its folders named like splits."""
    splits: dict[str, list[Path]] = {}
    with damage(folder):
        for file in sorted(folder.iterdir()):
            match = _NAMED.fullmatch(_stem(file, endings))
            if match is not None and file.is_file():
                splits.setdefault(match["split"], []).append(file)
        for split in SPLITS:
            if split not in splits and (folder / split).is_dir():
                files = sorted((folder / split).iterdir())
                found = [f for f in files if _match(f, endings) is not None and f.is_file()]
                splits |= {split: found} if found else {}
    return splits


def _stem(file: Path, endings: tuple[str, ...]) -> str:
    """The name of a file without its ending; empty where it has none of these endings."""
    ending = next((e for e in sorted(endings, key=len)[::-1] if file.name.endswith(e)), None)
    return "" if ending is None or is_leftover(file.name) else file.name.removesuffix(ending)


def is_named_shard(file: Path, endings: tuple[str, ...]) -> bool:
    """Whether the name of a file says of which split it is."""
    return _NAMED.fullmatch(_stem(file, endings)) is not None


def _match(file: Path, endings: tuple[str, ...]) -> re.Match[str] | None:
    """The parts of the name of a shard."""
    stem = _stem(file, endings)
    return _NAMED.fullmatch(stem) or _BELOW.fullmatch(stem)
