"""The part and class of every file, from the paths alone.

Recognised: `train/<class>/<image>` with `test/`, `val/`, `valid/` or `validation/` (one further
folder "images" below the class is allowed, as Tiny-ImageNet has it). The images of a test part may
lie outside class folders where a table gives their classes. All may be below a single top folder,
below ILSVRC/Data/CLS-LOC/, or both.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import decode_text, text_lines
from frepo_scale.data.sources.census import (
    BESIDE,
    LEFTOVER,
    OTHER_TEST,
    TEXT,
    UNLABELLED,
    Census,
    is_text,
    leftover,
    looks_like_test,
)
from frepo_scale.data.sources.listing import TestLike
from frepo_scale.data.sources.truth import TRUTHS, Truth

TEST_PARTS = ("test", "val", "valid", "validation")
PARTS = ("train", *TEST_PARTS)
WORDS = "words.txt"
TABLES = frozenset({WORDS, *TRUTHS})
FORM = "train/<class>/<image> and test/<class>/<image>"
_KAGGLE = ("ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", "CLS-LOC/")
BELOW = ("", *_KAGGLE)  # what may lie between the top folder and train/
_PART = re.compile(rf"(?:[^/]+/)?(?:{'|'.join(_KAGGLE)})?(?:{'|'.join(PARTS)})/")
_TOP = re.compile(rf"((?:[^/]+/)?(?:{'|'.join(_KAGGLE)})?)train/")
_IMAGES = "images"
_NAMED = 5  # classes named in a message


@dataclass(frozen=True)
class Layout:
    """The images of both parts.

    Attributes:
      folders: class folders in their order; index = label.
      class_names: readable names in the same order.
      train: (path, label) sorted by path.
      test: likewise; empty without a test part whose images have classes.
      census: all other files.
      notes: decisions, one line each.
      test_like: what may be a test part, where `test` is empty.
    """

    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    census: Census
    notes: tuple[str, ...] = ()
    test_like: TestLike | None = None


@dataclass
class _Part:
    """One part as found: paths by class, those outside classes, those too deep, and texts."""

    classes: dict[str, list[str]] = field(default_factory=dict)
    flat: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def named(self, labels: Collection[str]) -> dict[str, list[str]]:
        """The class folders; "images" is one only where the training part has it too."""
        return {c: paths for c, paths in self.classes.items() if c != _IMAGES or c in labels}

    def loose(self, labels: Collection[str]) -> list[str]:
        """The files whose path gives no class."""
        images = [] if _IMAGES in labels else self.classes.get(_IMAGES, [])
        return sorted(self.flat + self.deep + images)


def in_part(path: str) -> bool:
    """Whether a path may be inside a part."""
    return path.startswith(tuple(f"{name}/" for name in PARTS)) or bool(_PART.match(path))


def _top_of(path: str) -> str | None:
    """The folder above train/ for a path in it, with its slash; None for any other path."""
    if path.startswith("train/"):
        return ""
    found = _TOP.match(path)
    return found[1] if found else None


def _top(paths: Iterable[str], origin: str) -> str:
    """The one folder above train/."""
    tops = {top for path in paths if (top := _top_of(path)) is not None}
    if "" in tops:
        return ""
    if not tops:
        raise InputError(f"{origin} has no train/ folder", FORM, "arrange the images like this")
    if len(tops) > 1:
        raise InputError(
            f"{origin} has several folders with train/ in them: {', '.join(sorted(tops))}",
            "one data set",
            "give the path of one of them",
        )
    return tops.pop()


def _outside(path: str, top: str) -> str | None:
    """A path up to the first folder that is neither a part nor above one; None inside a part."""
    names, way = path.split("/"), top.split("/")[:-1]
    depth = 0
    while depth < min(len(way), len(names) - 1) and names[depth] == way[depth]:
        depth += 1
    below = len(names) > depth + 1
    if not names[depth] or (depth == len(way) and below and names[depth] in PARTS):
        return None
    return "/".join(names[: depth + 1]) + ("/" if below else "")


def _sort(paths: Iterable[str], top: str) -> dict[str, _Part]:
    """The parts that exist, with their files and folders (which end with "/") sorted into them."""
    parts: dict[str, _Part] = {}
    for path in paths:
        names = path[len(top) :].split("/")
        if names[0] not in PARTS:
            continue
        part = parts.setdefault(names[0], _Part())
        if not names[-1]:  # a folder
            if len(names) == 3:
                part.classes.setdefault(names[1], [])
        elif is_text(names[-1]):
            part.texts.append(path)
        elif len(names) == 2:
            part.flat.append(path)
        elif len(names) == 3 or (len(names) == 4 and names[2] == _IMAGES):
            part.classes.setdefault(names[1], []).append(path)
        else:
            part.deep.append(path)
    return parts


def _check_part(part: _Part, loose: list[str], origin: str) -> None:
    """Refuses files whose path gives no class."""
    if loose:
        raise InputError(
            f"{loose[0]} in {origin} is not in a class folder"
            + (f", and {len(loose) - 1} more" if len(loose) > 1 else ""),
            FORM,
            "move it into the folder of its class, or remove it if it is no image",
        )


class _Tests:
    """Chooses the test part."""

    def __init__(self, labels: Mapping[str, int], top: str, origin: str) -> None:
        self._labels, self._top, self._origin = labels, top, origin
        self.unlabelled: dict[str, int] = {}
        self.used: str | None = None  # the path of the table
        self.notes: list[str] = []

    def choose(
        self,
        parts: Mapping[str, _Part],
        texts: Mapping[str, bytes],
        above: Callable[[], Truth | None],
    ) -> tuple[str | None, list[tuple[str, int]]]:
        """The first part whose images have classes, and these images with their labels."""
        for name in TEST_PARTS:
            part = parts.get(name, _Part())
            named, loose = part.named(self._labels), part.loose(self._labels)
            if any(named.values()):
                _check_part(part, loose, self._origin)
                self._check_classes(name, named)
                images = [(p, self._labels[c]) for c, paths in named.items() for p in paths]
                return name, sorted(images)
            if not loose:
                continue
            truth = self._truth(name, texts, above)
            if truth is not None:
                classes = truth.classes(loose, self._labels.__contains__)
                self.notes.append(f"classes of the images in {name}/ from {truth.origin}")
                return name, sorted((p, self._label(p, c, truth)) for p, c in classes.items())
            self.unlabelled[name] = len(loose)
        return None, []

    def _label(self, path: str, name: str, truth: Truth) -> int:
        if name not in self._labels:
            raise InputError(
                f"{truth.origin}: {path} is of class {name}",
                "a class of train/",
                "check that both are complete and of the same data set",
            )
        return self._labels[name]

    def _truth(
        self, name: str, texts: Mapping[str, bytes], above: Callable[[], Truth | None]
    ) -> Truth | None:
        """The table of a part: in it; beside or above it, where those are of the val part."""
        folders = [f"{self._top}{name}/"]
        if name != "test":
            way = self._top.split("/")[:-1]
            folders += ["/".join([*way[:depth], ""]) for depth in range(len(way), -1, -1)]
        for path in (folder + table for folder in folders for table in TRUTHS):
            if path in texts:
                self.used = path
                source = Path(self._origin)
                beside = source / path if source.is_dir() else source
                return Truth(f"{path} in {self._origin}", texts[path], beside.parent)
        return above() if name != "test" else None

    def _check_classes(self, part: str, named: Mapping[str, list[str]]) -> None:
        unknown = sorted(named.keys() - self._labels.keys())
        if unknown:
            listed = ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
            classes = "class" if len(unknown) == 1 else f"{len(unknown)} classes:"
            raise InputError(
                f"{classes} {listed} of {part}/ in {self._origin}"
                f" {'is' if len(unknown) == 1 else 'are'} not in train/",
                "the same classes in both",
                f"remove {part}/{unknown[0]} or add train/{unknown[0]}",
            )

    def like(self, parts: Mapping[str, _Part], beside: Iterable[str]) -> TestLike | None:
        """What may be a test part, where none was chosen."""
        if self.unlabelled:
            found = self.unlabelled.items()
            what = " and ".join(f"{n}/ has {c} image{'s' * (c != 1)}" for n, c in found)
            name = next((n for n in self.unlabelled if n != "test"), "test")
            return TestLike(
                f"{what} without classes",
                f"put the table of their classes ({', '.join(TRUTHS)}) into {self._top}{name}/, or"
                f" move the images into {name}/<class>/",
            )
        empty = [name for name in TEST_PARTS if name in parts]
        if empty:
            return TestLike(f"{empty[0]}/ holds no image", f"copy the images of {empty[0]}/ again")
        like = sorted(filter(looks_like_test, beside))
        if like:
            return TestLike(
                f"{like[0]} looks like a test part",
                f"make it {self._top}test/ with the class folders of train/ in it",
            )
        return None


def _readable(classes: list[str], words: str | None) -> tuple[str, ...]:
    """Readable class names: the first word of each in words.txt, unique; else the folder's."""
    table = dict(line.split("\t", 1) for line in text_lines(words or "") if "\t" in line)
    short = [table.get(c, c).split(",")[0].strip() or c for c in classes]
    return tuple(
        s if short.count(s) == 1 else f"{s} ({c})" for s, c in zip(short, classes, strict=True)
    )


def _count(paths: Iterable[str], top: str, census: Census) -> tuple[set[str], list[str]]:
    """Counts all paths; the entries that are outside the parts, and the paths inside."""
    outside: set[str] = set()
    left: set[str] = set()
    inside = []
    for path in paths:
        entry = _outside(path, top)
        if (found := leftover(entry or path)) is not None:
            left.add(found)
        elif entry is not None:
            outside.add(entry)
        elif path != top:
            inside.append(path)
    census.see(len(outside) + len(left) + sum(not path.endswith("/") for path in inside))
    for entry in sorted(left):
        census.ignore(LEFTOVER, entry)
    return outside, inside


def read_layout(
    files: Iterable[str],
    folders: Iterable[str],
    texts: Mapping[str, bytes],
    origin: str,
    above: Callable[[], Truth | None] = lambda: None,
) -> Layout:
    """Sorts paths into parts and classes.

    Args:
      files: paths of files, "/" between components.
      folders: paths of folders (an empty class folder shows only here).
      texts: contents of the files that have a name of `TABLES`, by path.
      origin: the folder or archive, for messages.
      above: finds a table of classes beside or above the source.

    Raises:
      InputError: the paths do not give the class of every image, or a class is empty or unknown.
    """
    paths = [*files, *(f"{folder}/" for folder in folders)]
    top = _top((path for path in paths if leftover(path) is None), origin)
    census = Census()
    outside, inside = _count(paths, top, census)
    parts = _sort(inside, top)
    train = parts.pop("train", _Part())
    _check_part(train, sorted(train.flat + train.deep), origin)
    classes = sorted(train.classes)
    for name in classes:
        if not train.classes[name]:
            raise InputError(
                f"train/{name} in {origin} holds no image",
                "images (.jpg, .png, ...) in every class folder",
                "add images or remove the folder",
            )
    labels = {name: label for label, name in enumerate(classes)}
    tests = _Tests(labels, top, origin)
    chosen, test = tests.choose(parts, texts, above)
    held = {tests.used, f"{top}{WORDS}"}
    for path in sorted(outside) + sorted(
        p for part in [train, *parts.values()] for p in part.texts
    ):
        if path in held:
            census.hold()
        else:
            census.ignore(BESIDE if path in outside else TEXT, path)
    for name, part in parts.items():
        count = sum(map(len, (part.flat, part.deep, *part.classes.values())))
        if name != chosen and count:
            census.ignore(UNLABELLED if name in tests.unlabelled else OTHER_TEST, f"{name}/", count)
    listed = sorted((p, labels[c]) for c, paths in train.classes.items() for p in paths)
    words = texts.get(f"{top}{WORDS}")
    names = _readable(classes, decode_text(words, f"{WORDS} in {origin}") if words else None)
    like = None if test else tests.like(parts, outside)
    return Layout(tuple(classes), names, listed, test, census, tuple(tests.notes), like)
