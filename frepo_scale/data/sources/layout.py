"""The part and class of every image, from the paths alone.

Recognised: `train/<class>/<image>` with `test/`, `val/`, `valid/` or `validation/` (one further
folder "images" below the class is allowed, as Tiny-ImageNet has it), and Tiny-ImageNet's
own `val/images/<image>` with `val/val_annotations.txt`. All may be below a single top folder.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from frepo_scale.core.errors import InputError

TEST_PARTS = ("test", "val", "valid", "validation")
PARTS = ("train", *TEST_PARTS)
ANNOTATIONS, WORDS = "val_annotations.txt", "words.txt"
FORM = "train/<class>/<image> and test/<class>/<image>"


@dataclass(frozen=True)
class Layout:
    """The images of both parts.

    Attributes:
      folders: class folders in their order; index = label.
      class_names: readable names in the same order.
      train: (path, label) sorted by path.
      test: likewise; empty without a test part whose images have classes.
    """

    folders: tuple[str, ...]
    class_names: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


@dataclass
class _Part:
    """One part as found: image paths by class, those outside classes, those too deep."""

    classes: dict[str, list[str]]
    flat: list[str]
    deep: list[str]


def is_visible(path: str) -> bool:
    """Whether no component is hidden or the leftovers of another system."""
    return not any(p.startswith(".") or p == "__MACOSX" for p in path.split("/"))


def _top(paths: Iterable[str], origin: str) -> str:
    """The folder above train/, with its slash; empty where train/ is at the root."""
    tops = set()
    for path in paths:
        first, _, rest = path.partition("/")
        if first == "train":
            return ""
        if rest == "train" or rest.startswith("train/"):
            tops.add(first + "/")
    if not tops:
        raise InputError(f"{origin} has no train/ folder", FORM, "arrange the images like this")
    if len(tops) > 1:
        raise InputError(
            f"{origin} has several folders with train/ in them: {', '.join(sorted(tops))}",
            "one data set",
            "give the path of one of them",
        )
    return tops.pop()


def _sort(images: Iterable[str], folders: Iterable[str], top: str) -> dict[str, _Part]:
    """The parts that exist, with their images sorted into them."""
    parts: dict[str, _Part] = {}
    for path, is_file in [(p, True) for p in images] + [(p, False) for p in folders]:
        if not path.startswith(top):
            continue
        names = path[len(top) :].split("/")
        if names[0] not in PARTS:
            continue
        part = parts.setdefault(names[0], _Part({}, [], []))
        if not is_file:
            if len(names) == 2:
                part.classes.setdefault(names[1], [])
        elif len(names) == 2:
            part.flat.append(path)
        elif len(names) == 3 or (len(names) == 4 and names[2] == "images"):
            part.classes.setdefault(names[1], []).append(path)
        else:
            part.deep.append(path)
    return parts


def _check_part(part: _Part, origin: str) -> None:
    """Refuses images whose path gives no class."""
    for stray in sorted(part.flat + part.deep)[:1]:
        raise InputError(f"image {stray} in {origin} is not in a class folder", FORM, "move it")


def _annotated(
    part: _Part, text: str, labels: Mapping[str, int], origin: str
) -> list[tuple[str, int]]:
    """Tiny-ImageNet's val part: labels come from a table "image TAB class TAB box"."""
    classes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in labels or classes.setdefault(name, wnid) != wnid:
            raise InputError(
                f"line {number} of {ANNOTATIONS} in {origin} gives {name!r} class {wnid!r}",
                "'image TAB class TAB box', a class of train/, one class per image",
                "download the data set again",
            )
    paths = {path.rsplit("/", 1)[1]: path for path in part.classes["images"]}
    for name in sorted(classes.keys() ^ paths.keys()):
        what = "no such image" if name in classes else "no line for that image"
        raise InputError(
            f"{name}: {what} ({ANNOTATIONS} in {origin})",
            "one line for each image in val/images/",
            "download the data set again",
        )
    return sorted((path, labels[classes[name]]) for name, path in paths.items())


def _test(
    parts: Mapping[str, _Part], notes: str | None, labels: Mapping[str, int], origin: str
) -> list[tuple[str, int]]:
    """The images of the first test part whose images have classes; empty without one."""
    if notes is not None and "val" in parts and parts["val"].classes.get("images"):
        return _annotated(parts["val"], notes, labels, origin)
    for name in TEST_PARTS:
        part = parts.get(name)
        # Parts without labels are published with one folder "images".
        if part is None or not part.classes or part.classes.keys() - labels.keys() == {"images"}:
            continue
        _check_part(part, origin)
        for unknown in sorted(part.classes.keys() - labels.keys()):
            raise InputError(
                f"class {unknown} of {name}/ in {origin} is not in train/",
                "the same classes in both",
                f"remove {name}/{unknown} or add train/{unknown}",
            )
        images = sorted((p, labels[c]) for c, paths in part.classes.items() for p in paths)
        if images:
            return images
    return []


def _readable(classes: list[str], words: str | None) -> tuple[str, ...]:
    """Readable class names: the first word of each in words.txt, unique; else the folder's."""
    table = dict(line.split("\t", 1) for line in (words or "").splitlines() if "\t" in line)
    short = [table.get(c, c).split(",")[0].strip() or c for c in classes]
    return tuple(
        s if short.count(s) == 1 else f"{s} ({c})" for s, c in zip(short, classes, strict=True)
    )


def read_layout(
    images: Iterable[str], folders: Iterable[str], texts: Mapping[str, str], origin: str
) -> Layout:
    """Sorts image paths into parts and classes.

    Args:
      images: paths of image files, "/" between components.
      folders: paths of folders (an empty class folder shows only here).
      texts: contents of `ANNOTATIONS` and `WORDS`, by base name, where they exist.
      origin: the folder or archive, for messages.

    Raises:
      InputError: the paths do not give the class of every image, or a class is empty or unknown.
    """
    images = [p for p in images if is_visible(p)]
    folders = [p for p in folders if is_visible(p)]
    parts = _sort(images, folders, _top([*images, *folders], origin))
    train = parts.get("train", _Part({}, [], []))
    _check_part(train, origin)
    classes = sorted(train.classes)
    for name in classes:
        if not train.classes[name]:
            raise InputError(
                f"train/{name} in {origin} holds no image",
                "images (.jpg, .png, ...) in every class folder",
                "add images or remove the folder",
            )
    labels = {name: label for label, name in enumerate(classes)}
    test = _test(parts, texts.get(ANNOTATIONS), labels, origin)
    listed = sorted((p, labels[c]) for c, paths in train.classes.items() for p in paths)
    return Layout(tuple(classes), _readable(classes, texts.get(WORDS)), listed, test)
