"""`dataset.json`: what a prepared set is. It is written last, so without it a set is unfinished."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError

FORMAT = 1
FILE, LABELS, WHITENING = "dataset.json", "labels.npz", "whitening.npz"
UNFINISHED = ".unfinished"  # the folder of what is needed only until the set is finished
MADE_FIT = "fit"  # in `source`: how its makers made squares, whatever prepare was asked for
LABEL_BYTES = 4  # before the pixels of a record: its label, little-endian


@dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
      file: its name.
      records: images in it.
      bytes: its size.
      sha256: of its content.
    """

    file: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """A finished set.

    Attributes:
      name: what it is called.
      tool: version of this program.
      resolution: R, height and width of the images.
      channels: C.
      fit: how images became squares, here or before, "crop" or "squash".
      filter: how they were resized, "area" or "lanczos".
      decode: "full" or "reduced".
      class_names: K names; index = label.
      wnids: the WordNet ids in the same order, or None.
      counts: images of each class, by part ("train", "test").
      held_out: how many of the training images are held out to select.
      channel_mean: of the other training images, pixels in [0, 1].
      channel_std: likewise.
      shards: the files of each part, in order.
      files: sha256 of `LABELS` and `WHITENING`.
      source: form, fingerprint and what that covers; `MADE_FIT` where its images were squares.
      skipped: names and reasons of the images left out because they cannot be decoded.
    """

    name: str
    tool: str
    resolution: int
    channels: int
    fit: str
    filter: str
    decode: str
    class_names: tuple[str, ...]
    wnids: tuple[str, ...] | None
    counts: dict[str, tuple[int, ...]]
    held_out: int
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    shards: dict[str, tuple[Shard, ...]]
    files: dict[str, str]
    source: dict[str, str]
    skipped: tuple[tuple[str, str], ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.resolution, self.resolution, self.channels

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return LABEL_BYTES + self.resolution**2 * self.channels

    def size(self, part: str) -> int:
        """Images in a part."""
        return sum(shard.records for shard in self.shards.get(part, ()))


def _content(description: Description) -> dict[str, Any]:
    return {"format": FORMAT, **asdict(description)}


def fingerprint(description: Description) -> str:
    """sha256 of everything a set is, its records' checksums included."""
    text = json.dumps(_content(description), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_description(folder: Path, description: Description) -> None:
    """Declares a set finished."""
    value = {**_content(description), "sha256": fingerprint(description)}
    with whole_file(folder / FILE) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())


def read_description(folder: Path) -> Description:
    """What the prepared set in a folder is.

    Raises:
      InputError: there is none, it is not finished, of another version, or damaged.
    """
    path = folder / FILE
    again = "copy the set again, or remove it and give the frepo-scale prepare command that made it"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if (folder / UNFINISHED).is_dir():
            raise InputError(
                f"{folder} is not finished: it has no {FILE}",
                "a finished prepared set",
                "give the frepo-scale prepare command that made it again",
            ) from None
        raise InputError(
            f"{folder} has no {FILE}", "a prepared set", "make one with frepo-scale prepare"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a prepared set") from error
    try:
        value = json.loads(text)
        version = value.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error!r})", "JSON as prepare wrote it", again
        ) from error
    if version != FORMAT:  # first: nothing else is known of other formats
        raise InputError(
            f"{path} is of format {version!r}",
            f"format {FORMAT}, as this version reads",
            "prepare the set again with this version, or use the version that made it",
        )
    try:
        sha256 = value.pop("sha256")
        description = Description(
            **{n: _frozen(v) for n, v in value.items() if n not in ("shards", "counts")},
            counts={part: tuple(counts) for part, counts in value["counts"].items()},
            shards={
                part: tuple(Shard(**shard) for shard in shards)
                for part, shards in value["shards"].items()
            },
        )
        intact = fingerprint(description) == sha256
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error!r})", "as prepare wrote it", again) from error
    if not intact:
        raise InputError(
            f"{path} is damaged or was changed (its checksum differs)",
            "as prepare wrote it",
            again,
        )
    return description


def _frozen(value: Any) -> Any:
    """Lists as tuples, at the first two levels, where dataclass fields hold tuples."""
    if isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return value
