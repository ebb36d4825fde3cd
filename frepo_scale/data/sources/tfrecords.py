"""The examples of TFRecords and ArrayRecords with their labels in our order of classes."""

from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import is_gzip
from frepo_scale.data.sources.array_record_files import ArrayRecordImages, is_array_record
from frepo_scale.data.sources.census import OTHER_TEST, UNLABELLED, Census, looks_like_test
from frepo_scale.data.sources.listing import (
    NO_TEST_PART,
    Listing,
    Part,
    PartBuilder,
    Poll,
    TestLike,
)
from frepo_scale.data.sources.tfrecord_files import (
    FEATURES,
    INFO,
    LABELS,
    Build,
    Record,
    build_folder,
    read_build,
    read_records,
)
from frepo_scale.data.sources.wordnet import (
    DEVKIT_FILES,
    ORDER_FILES,
    ilsvrc_order,
    is_wnid,
    to_sorted,
    wnids_of,
)
from frepo_scale.ops.progress import Progress

_TEST = ("test", "validation", "val", "valid")
_AGAIN = "download it again"
_UNLABELLED = -1  # what tensorflow-datasets gives images whose classes are secret
_IMAGENET = 1000
_RESIZED = "imagenet_resized"  # ImageNet in small squares, with labels in the devkit's order from 0


class TfRecords:
    """A folder of TFRecord files, or of a build of tensorflow-datasets in either format."""

    form = "TFRecords"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return path.is_dir() and build_folder(path) is not None

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; every record is read once, for its label."""
        folder = build_folder(path) or path
        build = read_build(folder)
        if "train" not in build.splits:
            raise InputError(
                f"{folder} has no training TFRecords", "train and test", "download them too"
            )
        test = next((name for name in _TEST if _labelled(build, name)), None)
        records = _read_all(build, ["train"] + ([test] if test else []), poll)
        names, target, notes = _classes(folder, build, [r for _, r in records["train"]])
        wnids = wnids_of(names)
        name = "imagenet1k" if wnids and len(wnids) == _IMAGENET else build.name.replace("/", "_")
        squashed = _RESIZED in build.name
        census, like = _census(path, folder, build, records)
        if squashed:
            notes = (*notes, "the images were squashed to squares before they were stored")
        return Listing(
            form="TFRecords",
            train=_part(records["train"], names, target),
            test=_part(records.get(test or "", []), names, target),
            class_names=names,
            wnids=wnids,
            name=name or None,
            notes=notes if test else (*notes, NO_TEST_PART),
            fit="squash" if squashed else None,
            census=census,
            test_like=None if test else like,
        )


def _census(
    path: Path, folder: Path, build: Build, records: dict[str, list[tuple[str, Record]]]
) -> tuple[Census, TestLike | None]:
    """All records and files, and what may be a test part besides the splits read."""
    census = Census(sum(map(len, records.values())))
    unread = {s: [file.name for file in files] for s, files in build.splits.items()}
    held = {name for split in records for name in unread.pop(split)}
    other = [name for names in unread.values() for name in names]
    held |= {INFO, FEATURES, LABELS, *DEVKIT_FILES}
    parts = {file.parent for files in build.splits.values() for file in files} - {folder}
    beside = census.folder(folder, held, {*other, *(part.name for part in parts)})
    for part in sorted(parts):
        census.folder(part, held, other)
    if folder != path:
        beside += census.folder(path, (), {folder.name})
    reason = OTHER_TEST if len(records) > 1 else UNLABELLED
    for split, names in unread.items():
        census.see(len(names))
        census.ignore(reason, f"split {split}", len(names))
    if unread:
        fix = "write a label (label or image/class/label) into each of its records"
        return census, TestLike(f"the split {min(unread)} has records without classes", fix)
    like = [name for name in beside if looks_like_test(name)]
    fix = "put the files of the test split beside those of the training split"
    return census, TestLike(f"{like[0]} looks like a test part", fix) if like else None


def _read_all(build: Build, splits: list[str], poll: Poll) -> dict[str, list[tuple[str, Record]]]:
    """The examples of the splits, each with the path of its file."""
    records: dict[str, list[tuple[str, Record]]] = {}
    with Progress("reading labels", sum(len(build.splits[s]) for s in splits), unit="file") as bar:
        for split in splits:
            records[split] = []
            for number, path in enumerate(build.splits[split]):
                before = len(records[split])
                for record in read_records(path):
                    poll()
                    records[split].append((str(path), record))
                _check_length(build, split, number, len(records[split]) - before)
                bar.advance()
    return records


def _labelled(build: Build, split: str) -> bool:
    """Whether a split exists and its first example has a class."""
    for path in build.splits.get(split, []):
        for record in read_records(path):
            return record.label != _UNLABELLED
    return False


def _check_length(build: Build, split: str, number: int, count: int) -> None:
    wanted = build.lengths.get(split)
    if wanted is not None and wanted[number] != count:
        raise InputError(
            f"{build.splits[split][number]} has {count} records",
            f"{wanted[number]}, as dataset_info.json says",
            "download or copy it again",
        )


def _classes(
    folder: Path, build: Build, train: list[Record]
) -> tuple[tuple[str, ...], np.ndarray | None, tuple[str, ...]]:
    """Class names, what each stored label becomes (None: given by synsets), and notes."""
    if train and all(record.synset for record in train):
        names = tuple(sorted({record.synset for record in train}))
        return names, None, ("labels come from the WordNet id of each example",)
    names_given, source = build.label_names, LABELS
    one_based = bool(train) and train[0].one_based
    largest = max((record.label for record in train), default=0)
    count = largest + (0 if one_based else 1)
    if names_given is None and (_RESIZED in build.name or count == _IMAGENET):
        if _RESIZED in build.name:
            names_given, source = ilsvrc_order(folder), "the devkit's table"
        if names_given is None:
            raise InputError(
                f"{folder} ({build.name or 'unnamed'}) does not name its {count} classes, and"
                " ImageNet is numbered in more than one order",
                f"{LABELS} with the WordNet ids in the order of the labels"
                + (f"; or {ORDER_FILES}" if _RESIZED in build.name else ""),
                f"put it into {folder}",
            )
    if names_given is None:
        if count > max(len(train), 1):  # names for so many would not fit into memory
            raise InputError(
                f"the largest label in {folder} is {largest}",
                f"classes numbered without gaps ({len(train)} images)",
                "number them so",
            )
        names = tuple(map(str, range(count)))
        return names, np.arange(count, dtype=np.int32), ("labels are taken as they are",)
    if len(set(names_given)) != len(names_given):
        raise InputError(f"{source} in {folder} names a class twice", "each once", _AGAIN)
    ids = sum(map(is_wnid, names_given))
    if ids not in (0, len(names_given)):  # as plain names, the labels would not be mapped
        raise InputError(
            f"{source} in {folder} has {ids} WordNet ids in {len(names_given)} lines",
            "nothing but WordNet ids, or none",
            _AGAIN,
        )
    if wnids_of(names_given) is None:
        target = np.arange(len(names_given), dtype=np.int32)
        return tuple(names_given), target, ("labels are taken as they are, named by the source",)
    target = to_sorted(names_given)
    moved = int((target != np.arange(len(target))).sum())
    note = "labels are in the order of the WordNet ids already"
    if moved:
        note = (
            f"labels of {build.name or folder.name} are in another order: mapped to the"
            f" order of the WordNet ids by {source}; {moved} of {len(target)} change"
        )
    return tuple(sorted(names_given)), target, (note,)


def _part(
    records: list[tuple[str, Record]], names: tuple[str, ...], target: np.ndarray | None
) -> Part:
    """The records of a split with our labels; -1, refused later, where a label has no class."""
    builder = PartBuilder()
    index = {name: label for label, name in enumerate(names)}
    for path, record in records:
        stored = record.label - (1 if record.one_based else 0)
        if target is None:
            label = index.get(record.synset, -1)
        else:
            label = int(target[stored]) if 0 <= stored < len(target) else -1
        folder = names[label] if label >= 0 else "?"
        builder.add(f"{folder}/{record.name}", label, path, record.offset, record.size)
    files = {Path(path) for path, _ in records}
    return builder.part(
        compressed=any(map(is_gzip, files)),
        opener=ArrayRecordImages if any(map(is_array_record, files)) else None,
    )
