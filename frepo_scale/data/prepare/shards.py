"""One shard of records: its images are decoded and written, unless it exists and is intact.

Legend: n images of the shard, R resolution, C channels.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from frepo_scale.core.atomic import whole_file, whole_path
from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.description import file_sha256
from frepo_scale.data.images import Target, decode_row, in_file_order, read_rows
from frepo_scale.data.sources.listing import Part

# Uncompressed: on noise-like 64 px images zstd saved 41 % of the space, and reading was 2.4 times
# slower (BUILD_NOTES.md). Each record is a chunk with its own checksum.
WRITER_OPTIONS = "group_size:1,uncompressed"
RECORD_OVERHEAD = 80  # bytes around each record
SHARD_OVERHEAD = 3 << 16  # ArrayRecord fills up its 64 KiB blocks
_LARGEST_SHARD = 8192  # images: a kill costs a worker about a minute
_LARGEST_BYTES = 128 << 20  # a worker has one shard in memory
_SMALLEST_SHARD = 64
_SHARDS = 32  # of a small set, so that several workers are busy
_REPORT = 16  # images between two reports


def shard_size(count: int, record_bytes: int) -> int:
    """Images per shard for `count` images: a function of the data alone."""
    spread = max(_SMALLEST_SHARD, -(-count // _SHARDS))
    return max(1, min(spread, _LARGEST_SHARD, _LARGEST_BYTES // record_bytes))


def shard_name(part: str, number: int, count: int) -> str:
    """File name of shard `number` of `count`."""
    return f"{part}-{number:05}-of-{count:05}.array_record"


@dataclass(frozen=True)
class ShardTask:
    """One shard to make.

    Attributes:
      shard: the file to make.
      note: the file for the `ShardResult`; it exists once the shard is finished.
      images: n images in the order of their records.
      shape: (R, R, C).
      fit: "crop" or "squash".
      kernel: "area" or "lanczos".
    """

    shard: Path
    note: Path
    images: Part
    shape: tuple[int, int, int]
    fit: str
    kernel: str


@dataclass(frozen=True)
class ShardResult:
    """A finished shard.

    Attributes:
      records: number of images written.
      bytes: size of the file.
      sha256: of the file.
      bad: (row in the task's images, reason) of those that cannot be decoded.
      deep: the largest value in images of 16 bits; 0 where all have 8.
    """

    records: int
    bytes: int
    sha256: str
    bad: tuple[tuple[int, str], ...]
    deep: int = 0


def make_shard(task: ShardTask, report: Callable[[int], None]) -> ShardResult:
    """Makes a shard unless it exists and is intact.

    Args:
      task: the shard.
      report: called with the number of images done, every few images; may raise to stop.

    Raises:
      InputError: an archive of the source cannot be read, or the shard cannot be written.
    """
    found = finished_shard(task)
    if found is not None:
        report(len(task.images))
        return found
    pixels, good, bad, deep = _decode(task, report)
    with whole_path(task.shard) as path:
        _write(path, task.images.labels[good], pixels[good])
        result = ShardResult(int(good.sum()), path.stat().st_size, file_sha256(path), bad, deep)
    # The note comes after the shard: a kill between the two makes the shard once more.
    with whole_file(task.note) as file:
        file.write(json.dumps(asdict(result)).encode())
    return result


def finished_shard(task: ShardTask) -> ShardResult | None:
    """The result of a shard that exists and is intact; None if it must be made.

    One with undecodable images is made again: a disk may have failed for a moment.
    """
    try:
        value = json.loads(task.note.read_bytes())
        result = ShardResult(**{**value, "bad": tuple(value["bad"])})
        intact = (
            result.records == len(task.images)
            and task.shard.stat().st_size == result.bytes
            and file_sha256(task.shard) == result.sha256
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return result if intact else None


def _write(path: Path, labels: np.ndarray, pixels: np.ndarray) -> None:
    """Writes records of labels (n,) and pixels (n, R, R, C) and counts them."""
    prefixes = labels.astype("<u4")
    try:
        writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
        for prefix, image in zip(prefixes, pixels, strict=True):
            writer.write(prefix.tobytes() + image.tobytes())
        writer.close()
        reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
        count = reader.num_records()
        reader.close()
    except RuntimeError as error:
        raise OSError(str(error)) from error  # whole_path says which file; disk full is seen there
    if count != len(labels):
        raise OSError(f"{count} of {len(labels)} records were written")


def _decode(
    task: ShardTask, report: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, str], ...], int]:
    """Pixels (n, R, R, C) uint8, which of them are good (n,) bool, the errors of the others, and
    the largest value of 16 bits.
    """
    cv2.setNumThreads(1)  # the workers run in parallel; threads would compete with them
    images = task.images
    side, _, channels = task.shape
    target = Target(channels, side, task.fit, task.kernel)
    pixels = np.empty((len(images), *task.shape), np.uint8)
    good = np.ones(len(images), bool)
    bad: list[tuple[int, str]] = []
    pending = deep = 0
    for row, data in read_rows(images, in_file_order(images).tolist()):
        result = decode_row(images, row, data, target)
        if isinstance(result, UnreadableImage):
            good[row] = False
            bad.append((row, result.reason))
        else:
            pixels[row] = result.pixels
            deep = max(deep, result.deep)
        pending += 1
        if pending == _REPORT:
            report(pending)
            pending = 0
    report(pending)
    return pixels, good, tuple(sorted(bad)), deep
