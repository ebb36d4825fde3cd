"""TFRecords and the builds of tensorflow-datasets, read with TensorFlow itself.

Files may be TFRecords, plain or gzip, or ArrayRecords; the files of a split may be in a folder of
its name. Importing this module needs no TensorFlow, reading does. Every record is read once, which
compares its checksum, to find its label and where in the file its encoded image begins.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import read_text, text_lines
from frepo_scale.data.archive import damage, is_gzip
from frepo_scale.data.sources.array_record_files import is_array_record, read_array_records

INFO, FEATURES, LABELS = "dataset_info.json", "features.json", "label.labels.txt"
_SPLITS = ("train", "test", "validation", "valid", "val")
_KIND = r"(?:\.(?:tfrecords?|array_record))?"
_NAME = re.compile(
    rf"(?:(?P<head>.+)[-_.])?(?P<split>{'|'.join(_SPLITS)})"
    rf"{_KIND}(?:-(?P<shard>\d+)-of-(?P<shards>\d+))?{_KIND}(?:\.gz)?"
)
_HEADER, _FOOTER = 12, 4  # around every record: its length and that one's checksum; its checksum
_AGAIN = "download it again"
_IMAGE_KEYS = ("image", "image/encoded")
_SYNSET = "image/class/synset"
_NAME_KEYS = ("file_name", "image/filename")


@dataclass(frozen=True)
class Record:
    """One example.

    Attributes:
      name: its file name, or its position in the file.
      label: the integer stored, as it is.
      one_based: whether such labels count from 1.
      synset: its wnid where it has one, else empty.
      offset: where its encoded image begins in the file decompressed; of an ArrayRecord see
        `array_record_files`.
      size: bytes of that.
    """

    name: str
    label: int
    one_based: bool
    synset: str
    offset: int
    size: int


@dataclass(frozen=True)
class Build:
    """The files of a data set in records.

    Attributes:
      name: e.g. "imagenet_resized/64x64"; empty if it is not known.
      splits: name to files in order.
      label_names: index = label; None if they are not known.
      lengths: records in each file of a split, where `INFO` gives them.
    """

    name: str
    splits: dict[str, list[Path]]
    label_names: list[str] | None
    lengths: dict[str, list[int]]


def _is_record_file(path: Path) -> bool:
    match = _NAME.fullmatch(path.name)
    kind = "tfrecord" in path.name or is_array_record(path)
    named = match is not None and (kind or match["shard"] is not None)
    return named and path.is_file()


def _files_of(folder: Path) -> list[Path]:
    """The record files of a folder; where it has none, those of its folders train/, test/, ..."""
    with damage(folder):
        files = sorted(path for path in folder.iterdir() if _is_record_file(path))
        if not files:
            parts = [folder / split for split in _SPLITS if (folder / split).is_dir()]
            files = sorted(f for part in parts for f in part.iterdir() if _is_record_file(f))
    return files


def record_files(folder: Path) -> dict[str, list[Path]]:
    """The record files of a folder by split; empty where there are none.

    Raises:
      InputError: of a split in n files some are missing.
    """
    files = _files_of(folder)
    splits: dict[str, list[Path]] = {}
    promised: dict[str, int] = {}
    seen: dict[str, set[tuple[str | None, int]]] = {}
    for path in files:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        splits.setdefault(match["split"], []).append(path)
        promised[match["split"]] = int(match["shards"] or 1)
        seen.setdefault(match["split"], set()).add((match["head"], int(match["shard"] or 0)))
    for split, found in splits.items():
        head = min(seen[split], key=str)[0]
        all_of_one = {(head, number) for number in range(promised[split])}
        if len(found) != promised[split] or seen[split] != all_of_one:
            raise InputError(
                f"{folder} has {len(found)} TFRecord files of {split}, the last {found[-1].name}",
                f"all {promised[split]}",
                "download the missing ones, or remove the files of another data set",
            )
    return splits


def build_folder(path: Path) -> Path | None:
    """The folder with the records: `path` or one folder below it (a version); None without them.

    Raises:
      InputError: there are several versions, or `path` is one part of a data set.
    """
    with damage(path):
        if _files_of(path):
            _check_whole(path)
            return path
        below = sorted(entry for entry in path.iterdir() if (entry / INFO).is_file())
    if len(below) > 1:
        raise InputError(
            f"{path} holds several builds: {', '.join(folder.name for folder in below)}",
            "one data set",
            f"give the path of one, such as {below[-1]}",
        )
    return below[0] if below and _files_of(below[0]) else None


def _check_whole(folder: Path) -> None:
    """Refuses the folder of one split that has the folder of another beside it."""
    split, parent = folder.absolute().name, folder.absolute().parent
    others = [parent / other for other in _SPLITS if other != split and (parent / other).is_dir()]
    if split in _SPLITS and any(_files_of(other) for other in others):
        raise InputError(
            f"{folder} is one part of a data set; another is beside it",
            "the folder that holds both",
            f"give {parent}",
        )


def read_build(folder: Path) -> Build:
    """The files of the TFRecords in a folder.

    Raises:
      InputError: files are missing, or a description cannot be read.
    """
    splits = record_files(folder)
    info = _json(folder / INFO)
    name = "/".join(str(info[key]) for key in ("name", "configName") if info.get(key))
    lengths = _lengths(folder / INFO, info, splits)
    for split, counts in lengths.items():
        if len(counts) != len(splits[split]):
            raise InputError(
                f"{folder} has {len(splits[split])} TFRecord files of {split}",
                f"{len(counts)}, as {INFO} says",
                "download the data set again",
            )
    if not name:  # the files are called <name>-<split>.tfrecord-...
        match = _NAME.fullmatch(next(iter(splits.values()))[0].name)
        name = (match["head"] if match else None) or ""
    return Build(name, splits, _label_names(folder), lengths)


def _lengths(
    path: Path, info: dict[str, Any], splits: dict[str, list[Path]]
) -> dict[str, list[int]]:
    """Records in each file of the splits, where the description `info` in `path` gives them."""
    lengths = {}
    try:
        for split in info.get("splits") or []:
            counts = split.get("shardLengths") or split.get("shard_lengths")
            if split.get("name") in splits and counts:
                if not isinstance(counts, list):
                    raise TypeError(f"not a list: {counts!r}")
                lengths[split["name"]] = [int(str(count)) for count in counts]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say how many records each file has ({error})",
            "splits with name and shardLengths, as tensorflow-datasets writes them",
            _AGAIN,
        ) from error
    return lengths


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error})", "JSON", _AGAIN) from error
    return value


def _label_names(folder: Path) -> list[str] | None:
    """The names of the labels, from the text beside the records or the features."""
    path = folder / LABELS
    if path.is_file():
        return [line.strip() for line in text_lines(read_text(path)) if line.strip()]
    value: Any = _json(folder / FEATURES)
    for key in ("featuresDict", "features", "label", "classLabel", "names"):
        value = value.get(key) if isinstance(value, dict) else None
    return [str(name) for name in value] if isinstance(value, list) and value else None


def read_records(path: Path) -> Iterator[Record]:
    """The examples of a file of records in order.

    Raises:
      InputError: TensorFlow is not installed; the file is damaged; an example has no image or
        label.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise InputError(
            f"{path} cannot be read without TensorFlow",
            "the package tensorflow",
            f"{sys.executable} -m pip install tensorflow-cpu",
        ) from error
    from google.protobuf.message import DecodeError

    records = read_array_records(path) if is_array_record(path) else _tfrecords(path, tf)
    for number, (data, start) in enumerate(records):
        try:
            features = tf.train.Example.FromString(data).features.feature
        except DecodeError as error:
            raise InputError(
                f"record {number} of {path} is not a tf.train.Example",
                "examples",
                _AGAIN,
            ) from error
        yield _record(features, data, start, f"{path.name}#{number:07}", path)


def _tfrecords(path: Path, tf: Any) -> Iterator[tuple[bytes, int]]:
    """Every record of a TFRecord file, and where it begins in the file decompressed."""
    kind = "GZIP" if is_gzip(path) else ""
    records = iter(tf.data.TFRecordDataset(str(path), kind).as_numpy_iterator())
    start = _HEADER
    number = 0
    while True:
        try:
            data = next(records)
        except StopIteration:
            return
        except (tf.errors.OpError, OSError) as error:
            raise InputError(
                f"{path} is cut off or damaged (record {number})",
                "intact TFRecords, plain or gzip",
                "download or copy it again",
            ) from error
        yield data, start
        start += len(data) + _FOOTER + _HEADER
        number += 1


def _record(features: Any, data: bytes, start: int, position: str, path: Path) -> Record:
    def first(key: str, kind: str) -> Any:
        values = getattr(features[key], kind).value if key in features else None
        return values[0] if values else None

    image = next((v for v in (first(key, "bytes_list") for key in _IMAGE_KEYS) if v), None)
    plain, counted = first("label", "int64_list"), first("image/class/label", "int64_list")
    if image is None or (plain is None and counted is None):
        raise InputError(
            f"record {position.rpartition('#')[2]} of {path} has the keys {sorted(features)}",
            f"an encoded image ({' or '.join(_IMAGE_KEYS)}) and a label (label or"
            " image/class/label)",
            "write it with these keys",
        )
    named = next((v for v in (first(key, "bytes_list") for key in _NAME_KEYS) if v), None)
    synset = first(_SYNSET, "bytes_list") or b""
    try:
        wnid = synset.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"record {position.rpartition('#')[2]} of {path} has {_SYNSET} = {synset[:80]!r}",
            "a WordNet id",
            _AGAIN,
        ) from error
    name = named.decode("utf-8", "replace").rsplit("/", 1)[-1] if named else position
    label = int(plain if plain is not None else counted)
    offset = start + data.index(image)  # the first range with these bytes: they are the same
    return Record(name, label, plain is None, wnid, offset, len(image))
