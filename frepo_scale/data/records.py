"""Reading a prepared set: random access in blocks, with every damage detected.

Legend: n images of a part, b images asked for, R resolution, C channels, K classes.
"""

import sys
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import (
    LABEL_BYTES,
    LABELS,
    WHITENING,
    Description,
    Shard,
    file_sha256,
    read_description,
)
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.parallel.runtime import is_first

_AGAIN = "copy the set again, or remove it and give the frepo-scale prepare command that made it"
_LARGE = 2 << 30  # bytes; a line is printed before the checksums of a larger set are compared
_READER = "readahead_buffer_size:0,max_parallelism:0"  # random access
_FRAME = 112  # bytes the format adds to a record: one read gets a record and little more


class Records:
    """The images of one part.

    Reading is safe from several threads; a copy in another process opens its own files.
    """

    def __init__(
        self, folder: Path, description: Description, part: str, labels: np.ndarray
    ) -> None:
        """The records of a part ("train" or "test") with the labels (n,) int32 they must have."""
        self._folder = folder
        self._shards: tuple[Shard, ...] = description.shards.get(part, ())
        self.shape = description.image_shape
        self._record = description.record_bytes
        self._ends = np.cumsum([shard.records for shard in self._shards], dtype=np.int64)
        self.labels = labels
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open files."""
        return {n: v for n, v in self.__dict__.items() if n not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Files are opened when they are read."""
        self.__dict__.update(state, _readers={}, _lock=threading.Lock())

    def __len__(self) -> int:
        """n."""
        return len(self.labels)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (b, R, R, C) uint8 and labels (b,) int32 of the records at `indices`, in order.

        Raises:
          IndexError: an index is not in [0, n).
          InputError: a shard is damaged, or a record is not of this set.
        """
        rows = np.asarray(indices, np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"records {rows.min()} to {rows.max()} of {len(self)}")
        size = self._record - LABEL_BYTES
        images = np.empty((len(rows), *self.shape), np.uint8)
        cells = images.reshape(-1).data  # slices of it cost half of NumPy's
        labels = self.labels[rows]
        shards = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(shards, kind="stable")
        used, starts = np.unique(shards[order], return_index=True)
        for shard, wanted in zip(used.tolist(), np.split(order, starts)[1:], strict=True):
            first = self._ends[shard] - self._shards[shard].records
            records = self._read(shard, (rows[wanted] - first).tolist())
            stored = np.frombuffer(b"".join([r[:LABEL_BYTES] for r in records]), "<u4")
            wrong = np.flatnonzero(stored != labels[wanted])
            if len(wrong):
                row = wanted[wrong[0]]
                raise InputError(
                    f"record {rows[row] - first} of {self._path(shard)} has label"
                    f" {stored[wrong[0]]}",
                    f"{labels[row]}, as in {LABELS}",
                    _AGAIN,
                )
            for row, record in zip(wanted.tolist(), records, strict=True):  # one copy, no join
                cells[row * size : (row + 1) * size] = memoryview(record)[LABEL_BYTES:]
        return images, labels

    def at(self, rows: np.ndarray) -> np.ndarray:
        """See `data.types.Rows`."""
        return self.read(rows)[0]

    def _path(self, shard: int) -> Path:
        return self._folder / self._shards[shard].file

    def _read(self, shard: int, positions: list[int]) -> list[bytes]:
        """Records of a shard, each of the right size."""
        try:
            records = self._reader(shard).read(positions)
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(shard, str(error).split(";")[0]) from error
        sizes = {len(record) for record in records}
        if len(records) != len(positions) or sizes != {self._record}:
            wrong = next(iter(sizes - {self._record}), 0)
            raise self._damaged(shard, f"a record of {wrong} bytes instead of {self._record}")
        return list(records)

    def _reader(self, shard: int) -> Any:
        """The open file of a shard; its number of records is compared when it is opened."""
        with self._lock:
            reader = self._readers.get(shard)
            if reader is None:
                reader = ArrayRecordReader(
                    str(self._path(shard)),
                    options=_READER,
                    file_reader_buffer_size=self._record + _FRAME,
                )
                count = reader.num_records()  # 0 for a file cut off, without an error
                if count != self._shards[shard].records:
                    raise self._damaged(
                        shard, f"{count} of {self._shards[shard].records} records can be read"
                    )
                self._readers[shard] = reader
            return reader

    def _damaged(self, shard: int, detail: str) -> InputError:
        return InputError(f"shard {self._path(shard)} is damaged ({detail})", "as prepared", _AGAIN)


class PreparedSet:
    """The output of `frepo-scale prepare`.

    Attributes:
      folder: its path.
      description: the content of `dataset.json`.
      train: all training images, the held-out ones too.
      test: the test images; may be empty.
    """

    def __init__(
        self, folder: Path, description: Description, labels: dict[str, np.ndarray]
    ) -> None:
        """Use `open`, which checks the files."""
        self.folder = folder
        self.description = description
        none = np.zeros(0, np.int32)
        self.train = Records(folder, description, "train", labels["train"])
        self.test = Records(folder, description, "test", labels.get("test", none))

    @staticmethod
    def open(folder: str | Path, verify: bool = False) -> "PreparedSet":
        """Opens a finished set.

        Args:
          folder: its path.
          verify: whether to `verify` it; presence and size of every shard are always checked, and
            so is every record that is read.

        Raises:
          InputError: not a set, unfinished, of another version, or a file is missing or damaged.
        """
        folder = Path(folder)
        description = read_description(folder)
        for part, shards in description.shards.items():
            if len(description.counts[part]) != len(description.class_names):
                raise InputError(f"{folder}: counts of {part}", "one for each class", _AGAIN)
            for shard in shards:
                _check_shard(folder / shard.file, shard, False)
        found = PreparedSet(folder, description, _labels(folder, description))
        if verify:
            found.verify()
        return found

    def verify(self) -> None:
        """Reads every file and compares its checksum.

        Raises:
          InputError: a file is missing, damaged, or of another set.
        """
        shards = [shard for part in self.description.shards.values() for shard in part]
        size = sum(shard.bytes for shard in shards)
        if size > _LARGE and is_first():
            line = f"frepo-scale: checking the {size / 2**30:.0f} GiB of {self.folder}"
            print(line, file=sys.stderr, flush=True)
        for shard in shards:
            _check_shard(self.folder / shard.file, shard, True)
        if self.description.fitted is not None:
            _check_file(self.folder / WHITENING, self.description.fitted)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything the set is, its pixels and labels included."""
        return self.description.fingerprint

    def preprocessing(self, whiten: bool) -> Preprocessing:
        """Normalisation and whitening from the training images that are not held out.

        Raises:
          InputError: the statistics are damaged, of other held-out images than this version
            selects, or there are none for whitening this size.
        """
        described = self.description
        rows = held_out_rows(self.train.labels, len(described.class_names))
        if int(rows.sum()) != described.held_out:
            raise InputError(
                f"{self.folder} holds out {described.held_out} images",
                f"{int(rows.sum())}, as this version does",
                "prepare it again with this version",
            )
        mean = np.array(described.channel_mean, np.float32)
        std = np.array(described.channel_std, np.float32)
        if not whiten:
            return Preprocessing(mean, std, None)
        if described.fitted is None:
            raise InputError(
                f"{self.folder} has no whitening for its images of {described.resolution} pixels",
                "differing images in colour of at most 64 pixels, or of a size that splits evenly"
                " into grids of 33 to 64",
                "prepare it at 64, 96 or 128 pixels, for example",
            )
        return Preprocessing.from_arrays(
            {"channel_mean": mean, "channel_std": std}
            | _arrays(self.folder / WHITENING, described.fitted)
        )


def _check_shard(path: Path, shard: Shard, verify: bool) -> None:
    """Compares a shard with its description."""
    try:
        size = path.stat().st_size
        intact = size == shard.bytes
        detail = f"{size} bytes instead of {shard.bytes}"
        if intact and verify:
            intact, detail = file_sha256(path) == shard.sha256, "its checksum differs"
    except FileNotFoundError:
        raise InputError(f"shard {path} is missing", "all shards of the set", _AGAIN) from None
    except OSError as error:
        raise InputError(
            f"shard {path} cannot be read ({error.strerror})", "a readable file", _AGAIN
        ) from error
    if not intact:
        raise InputError(f"shard {path} is damaged ({detail})", "as prepared", _AGAIN)


def _check_file(path: Path, sha256: str | None) -> None:
    """Compares the checksum of a file of the set."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror})", "the whole set", _AGAIN
        ) from error
    if found != sha256:
        raise InputError(f"{path} is damaged (its checksum differs)", "as prepared", _AGAIN)


def _arrays(path: Path, sha256: str | None) -> dict[str, np.ndarray]:
    """The arrays of a file of the set, whose checksum is right."""
    _check_file(path, sha256)
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error})", "as prepared", _AGAIN) from error


def _labels(folder: Path, description: Description) -> dict[str, np.ndarray]:
    """Labels (n,) int32 by part, of the right number and in [0, K)."""
    path = folder / LABELS
    arrays = _arrays(path, description.files.get(LABELS))
    classes = len(description.class_names)
    if arrays.keys() != description.shards.keys() or "train" not in arrays:
        raise InputError(f"{path} has the parts {sorted(arrays)}", "those of the shards", _AGAIN)
    for part, labels in arrays.items():
        if labels.shape != (description.size(part),) or labels.dtype != np.int32:
            raise InputError(
                f"{path} has {labels.dtype} {labels.shape} for {part}",
                f"int32 ({description.size(part)},), one for each record",
                _AGAIN,
            )
        if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
            raise InputError(
                f"{path} has labels from {labels.min()} to {labels.max()}",
                f"0 to {classes - 1}",
                _AGAIN,
            )
    return arrays
