"""`dataset.json`, the description of a prepared set: written last, so it marks a finished set."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError

FORMAT = 2
FILE, LABELS, WHITENING = "dataset.json", "labels.npz", "whitening.npz"
UNFINISHED = ".unfinished"  # the folder of files that only an unfinished set needs
CENSUS = "census"  # in `source`: what became of every file
MADE_FIT = "fit"  # in `source`: how the images were made square before prepare
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
    """A finished prepared set.

    Attributes:
      name: of the set.
      tool: version of this program.
      resolution: R, height and width of the images.
      channels: C.
      fit: how images became squares, here or before, "crop" or "squash".
      filter: how they were resized, "area" or "lanczos".
      class_names: K names; index = label.
      wnids: the WordNet ids in the same order, or None.
      counts: images of each class, by part ("train", "test").
      held_out: how many of the training images are held out to select.
      channel_mean: of the other training images, pixels in [0, 1].
      channel_std: likewise.
      shards: the files of each part, in order.
      files: sha256 of `LABELS`.
      source: form, fingerprint and what that covers, `CENSUS`; `MADE_FIT` where its images were
        squares.
      skipped: names and reasons of the images left out because they cannot be decoded.
      fitted: sha256 of `WHITENING`; None for grey images, and where whitening is not possible.
        Not part of the fingerprint: eigenvectors differ between machines in their last bits.
      fingerprint: sha256 of everything else, the checksums of the records included.
    """

    name: str
    tool: str
    resolution: int
    channels: int
    fit: str
    filter: str
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
    fitted: str | None = None
    fingerprint: str = field(default="", compare=False)

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


def _fingerprint(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_description(folder: Path, description: Description) -> Description:
    """Marks a set as finished; returns the description with its fingerprint."""
    content = {"format": FORMAT, **asdict(description)}
    del content["fitted"], content["fingerprint"]
    described = replace(description, fingerprint=_fingerprint(content))
    value = {**content, "fitted": described.fitted, "sha256": described.fingerprint}
    with whole_file(folder / FILE) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())
    return described


def read_description(folder: Path) -> Description:
    """The description of the prepared set in a folder.

    Raises:
      InputError: there is none, the set is unfinished, of another version, or damaged.
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
        version = value["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({error!r})", "JSON as prepare wrote it", again
        ) from error
    if version != FORMAT:  # first: nothing else is known of other formats
        raise InputError(
            f"{path} is of format {version!r}",
            f"format {FORMAT}, which this version reads",
            "prepare the set again with this version, or use the version that made it",
        )
    try:
        sha256, fitted = value.pop("sha256"), value.pop("fitted")
        if _fingerprint(value) != sha256:
            raise ValueError("its checksum differs")
        return _description(value, fitted, sha256)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or was changed ({error})", "as prepare wrote it", again
        ) from error


def _description(content: dict[str, Any], fitted: str | None, sha256: str) -> Description:
    simple = {name: _frozen(value) for name, value in content.items() if name != "format"}
    simple |= {
        "counts": {part: tuple(counts) for part, counts in content["counts"].items()},
        "shards": {
            part: tuple(Shard(**shard) for shard in shards)
            for part, shards in content["shards"].items()
        },
    }
    return Description(**simple, fitted=fitted, fingerprint=sha256)


def file_sha256(path: Path) -> str:
    """sha256 of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _frozen(value: Any) -> Any:
    """Lists as tuples, at the first two levels, where dataclass fields hold tuples."""
    if isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return value
