"""One shard of a WebDataset: a tar with `<key>.jpg` and `<key>.cls`, the number of its class."""

from itertools import islice
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import Member, members, truncated
from frepo_scale.data.decode import EXTENSIONS, MAX_BYTES
from frepo_scale.data.sources.census import BESIDE, LEFTOVER, Census, leftover
from frepo_scale.data.sources.listing import Poll

_CLASS = "cls"
_LONGEST = 9  # bytes of the number of a class
_PEEK = 12  # entries of a tar that show whether it is a shard
_AGAIN = "write the shards again"
Sample = tuple[str, int, int, int]  # file name, label, offset, size


def _split(name: str) -> tuple[str, str]:
    """The key of a member and the rest of its name, which begins at the first dot."""
    folder, slash, base = name.rpartition("/")
    key, _, field = base.partition(".")
    return folder + slash + key, field.lower()


def is_shard(path: Path) -> bool:
    """Whether the first entries of a tar are fields of samples."""
    fields: dict[str, set[str]] = {}
    for member in islice(members(path), _PEEK):
        if member.kind == "file":
            key, field = _split(member.name)
            fields.setdefault(key, set()).add(field)
    return any(_CLASS in found for found in fields.values())


def read_samples(path: Path, census: Census, poll: Poll) -> list[Sample]:
    """The samples of a shard in order.

    Raises:
      InputError: the tar is damaged, or a sample has no image, several, or no class.
    """
    images: dict[str, Member] = {}
    classes: dict[str, int] = {}
    for member in members(path):
        poll()
        if member.kind == "folder":
            continue
        census.see()
        key, field = _split(member.name)
        if (left := leftover(member.name)) is not None:
            census.ignore(LEFTOVER, left)
        elif member.kind != "file":
            raise InputError(f"{member.name} in {path} is a link", "plain files", _AGAIN)
        elif field == _CLASS:
            census.hold()
            classes[key] = _number(member, path)
        elif f".{field}" in EXTENSIONS:
            if key in images or member.size > MAX_BYTES:
                why = "the second image of its sample" if key in images else "too large"
                raise truncated(path, f"{member.name} is {why}")
            images[key] = member
        else:
            census.ignore(BESIDE, member.name)
    for key in sorted(images.keys() ^ classes.keys()):
        raise InputError(
            f"sample {key} in {path} has no {_CLASS if key in images else 'image'}",
            f"an image and the number of its class (.{_CLASS}) in every sample",
            _AGAIN,
        )
    return [
        (member.name.rpartition("/")[2], classes[key], member.offset, member.size)
        for key, member in images.items()
    ]


def _number(member: Member, path: Path) -> int:
    """The number of a class."""
    text = member.read().strip() if member.size <= _LONGEST else b""
    if not text.isdigit():
        raise InputError(
            f"{member.name} in {path} holds {text[:20]!r}", "the number of a class from 0", _AGAIN
        )
    return int(text)
