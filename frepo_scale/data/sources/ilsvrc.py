"""The ILSVRC archives as they are published, read in place.

`ILSVRC2012_img_train.tar` is a tar of one tar per class; `ILSVRC2012_img_val.tar` holds the
validation images without classes, which are in a separate file.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import Member, is_gzip, members, truncated
from frepo_scale.data.decode import MAX_BYTES, is_image
from frepo_scale.data.sources.listing import NO_TEST_PART, Listing, PartBuilder, Poll
from frepo_scale.data.sources.wordnet import (
    ORDER_FILES,
    find_devkit_file,
    ilsvrc_order,
    is_wnid,
    text_lines,
    wnids_of,
)

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
TRUTHS = (
    "ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val_annotations.txt",
)
_AGAIN = "download it again"


class IlsvrcArchives:
    """A folder with `TRAIN`, and perhaps `VALIDATION` with its ground truth."""

    form = f"a folder with {TRAIN}"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return (path / TRAIN).is_file() if path.is_dir() else path.name == TRAIN

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; classes are sorted by WordNet id."""
        folder = path if path.is_dir() else path.parent
        classes = _training_images(folder / TRAIN, poll)
        wnids = sorted(classes)
        train = PartBuilder()
        for label, wnid in enumerate(wnids):
            for base, offset, size in classes[wnid]:
                train.add(f"{wnid}/{base}", label, str(folder / TRAIN), offset, size)
        test, note = _validation(folder, wnids, poll)
        return Listing(
            form="ILSVRC archives",
            train=train.part(),
            test=test.part(),
            class_names=tuple(wnids),
            wnids=wnids_of(wnids),
            name="imagenet1k",
            notes=(note,),
        )


def _training_images(path: Path, poll: Poll) -> dict[str, list[tuple[str, int, int]]]:
    """File name, offset and size of the images of each class, by WordNet id."""
    classes: dict[str, list[tuple[str, int, int]]] = {}
    _check_plain(path)
    for member in members(path):
        name = member.name.rsplit("/", 1)[-1]
        if member.kind == "folder" or name.startswith("."):
            continue
        if member.kind != "file" or not name.endswith(".tar"):
            raise InputError(f"{member.name} in {path}", "one tar per class", _AGAIN)
        wnid = name.removesuffix(".tar")
        if wnid in classes:
            raise InputError(f"{path} has {name} twice", "one tar per class", _AGAIN)
        classes[wnid] = list(_class_images(path, member, wnid, poll))
    if not classes:
        raise InputError(f"{path} is empty", "one tar per class", _AGAIN)
    return classes


def _class_images(
    path: Path, inner: Member, wnid: str, poll: Poll
) -> Iterator[tuple[str, int, int]]:
    """File name, offset in `path` and size of the images of one class."""
    for image in members(path, inside=inner):
        poll()
        if image.kind == "folder" or not is_image(image.name):
            continue
        _check_image(path, image)
        base = image.name.rsplit("/", 1)[-1]
        named = base.split("_")[0]
        if is_wnid(named) and named != wnid:
            raise InputError(f"{inner.name} in {path} holds {base}", f"images of {wnid}", _AGAIN)
        yield base, image.offset, image.size


def _check_plain(path: Path) -> None:
    """Refuses an archive without random access."""
    if is_gzip(path):
        raise InputError(f"{path} is compressed", "a plain tar, read in place", "gunzip it")


def _check_image(path: Path, image: Member) -> None:
    """Refuses links and impossible sizes."""
    if image.kind != "file":
        raise InputError(f"image {image.name} in {path} is a link", "plain files", _AGAIN)
    if image.size > MAX_BYTES:
        raise truncated(path, f"image {image.name} claims {image.size} bytes")


def _validation(folder: Path, wnids: list[str], poll: Poll) -> tuple[PartBuilder, str]:
    """The validation images with their labels, and where the labels come from."""
    builder = PartBuilder()
    path = folder / VALIDATION
    if not path.exists():
        return builder, NO_TEST_PART
    _check_plain(path)
    images: dict[str, Member] = {}
    for member in members(path):
        poll()
        if is_image(member.name):
            _check_image(path, member)
            images[member.name] = member
    if not images:
        raise InputError(f"{path} holds no image", "the validation images", _AGAIN)
    folders = {name: name.split("/")[-2] if "/" in name else "" for name in images}
    if any(is_wnid(folder) or folder in wnids for folder in set(folders.values())):
        classes = folders
        origin = f"the folders in {path}"
    else:
        classes, origin = _truth(folder, sorted(images, key=_by_number), path)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    for name in sorted(images):
        wnid = classes[name]
        if wnid not in labels:
            raise InputError(
                f"{origin}: {name} is of class {wnid}",
                f"a class of {TRAIN}",
                "check that both archives are complete and of the same year",
            )
        base = name.rsplit("/", 1)[-1]
        member = images[name]
        builder.add(f"{wnid}/{base}", labels[wnid], str(path), member.offset, member.size)
    return builder, f"classes of the validation images from {origin}"


def _by_number(name: str) -> tuple[int, str]:
    """Sorts ILSVRC2012_val_00000010.JPEG after ..._9, with and without the zeros; 0: no number."""
    base = name.rsplit("/", 1)[-1]
    digits = re.search(r"(\d+)\.\w+$", base, re.ASCII)
    return (int(digits[1]) if digits else 0), base


def _truth(folder: Path, names: list[str], archive: Path) -> tuple[dict[str, str], str]:
    """The wnid of each validation image (names by number), and the file it comes from."""
    found = next((f for f in (find_devkit_file(folder, name) for name in TRUTHS) if f), None)
    if found is None:
        raise InputError(
            f"{archive} has no classes: no ground truth beside it",
            f"one of {', '.join(TRUTHS)} in {folder}, or the images in folders named by wnid",
            f"take {TRUTHS[0]} out of ILSVRC2012_devkit_t12.tar.gz, or copy that archive there",
        )
    origin, data = found
    rows = [line.replace(",", " ").split() for line in text_lines(data) if line.strip()]
    if rows and rows[0][0] == "ImageId":  # the head of the .csv
        rows = rows[1:]
    if all(len(row) == 1 for row in rows):
        return _by_position(folder, rows, names, origin), origin
    by_stem = {name.rsplit("/", 1)[-1].rsplit(".", 1)[0]: name for name in names}
    classes: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name = by_stem.get(row[0].rsplit("/", 1)[-1].split(".")[0], "")
        if not name or len(row) < 2 or not is_wnid(row[1]) or name in classes:
            raise InputError(
                f"line {number} of {origin}: {' '.join(row)[:80]!r}",
                f"'name wnid', each image of {archive} once",
                _AGAIN,
            )
        classes[name] = row[1]
    missing = sorted(set(names) - classes.keys())
    if missing:
        raise InputError(f"{origin} has no line for {missing[0]}", "one for each", _AGAIN)
    return classes, origin


def _by_position(
    folder: Path, rows: list[list[str]], names: list[str], origin: str
) -> dict[str, str]:
    """Line i is the class of image i, as a wnid or as the devkit's id from 1."""
    values = [row[0] for row in rows]
    if len(values) != len(names):
        raise InputError(
            f"{origin} has {len(values)} lines",
            f"{len(names)}, one for each image of {VALIDATION}",
            "check that both are complete",
        )
    numbers = [_by_number(name)[0] for name in names]
    if numbers != list(range(1, len(names) + 1)):
        raise InputError(
            f"the images of {VALIDATION} are not numbered from 1 to {len(names)}",
            f"all images that {origin} lists, numbered at the end of their names",
            "check that both are complete, or write 'name wnid' for each image",
        )
    if not all(map(is_wnid, values)):
        order = ilsvrc_order(folder)
        if order is None:
            raise InputError(
                f"{origin} numbers the classes in the devkit's own order",
                f"a file with that order: {ORDER_FILES}",
                f"put one of them into {folder}",
            )
        for number, value in enumerate(values, 1):
            if not (value.isascii() and value.isdigit() and 1 <= int(value) <= len(order)):
                raise InputError(
                    f"line {number} of {origin}: {value[:80]!r}",
                    f"a class from 1 to {len(order)}",
                    _AGAIN,
                )
        values = [order[int(value) - 1] for value in values]
    return dict(zip(names, values, strict=True))
