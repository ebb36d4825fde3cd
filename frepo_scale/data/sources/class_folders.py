"""Class folders, `train/<class>/<image>` and a test part, in a directory or a tar."""

import os
from collections.abc import Callable
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import TARS, damage, is_gzip, members, truncated
from frepo_scale.data.decode import MAX_BYTES, is_image
from frepo_scale.data.sources.layout import (
    ANNOTATIONS,
    PARTS,
    WORDS,
    Layout,
    is_visible,
    read_layout,
)
from frepo_scale.data.sources.listing import NO_TEST_PART, Listing, Part, PartBuilder, Poll
from frepo_scale.data.sources.wordnet import wnids_of

_MAX_TEXT = 64 << 20
_DEPTH = 5  # one deeper than any known layout, so that images that are too deep are reported

# File, offset and size of an image by its path within the data set.
Ranges = dict[str, tuple[str, int, int]]


class ClassFolders:
    """A directory, a .tar or a .tar.gz of class folders; see `layout`."""

    form = "train/<class>/<image> and test/<class>/<image> in a folder or a .tar[.gz]"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        if path.is_dir():
            return _has_train(path)
        return path.is_file() and path.name.endswith(TARS)

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; the test part may be missing."""
        if path.is_dir():
            found, folders, texts = _list_directory(path, poll)
        else:
            found, folders, texts = _list_tar(path, poll)
        layout = read_layout(found, folders, texts, str(path))
        compressed = path.is_file() and is_gzip(path)
        return Listing(
            form="class folders",
            train=_part(layout, layout.train, found, compressed),
            test=_part(layout, layout.test, found, compressed),
            class_names=layout.class_names,
            wnids=wnids_of(layout.folders),
            notes=() if layout.test else (NO_TEST_PART,),
        )


def _part(layout: Layout, rows: list[tuple[str, int]], found: Ranges, compressed: bool) -> Part:
    """One part; images are named `<class>/<file>` in every form."""
    builder = PartBuilder()
    for path, label in rows:
        builder.add(f"{layout.folders[label]}/{path.rpartition('/')[2]}", label, *found[path])
    return builder.part(compressed)


def _has_train(folder: Path) -> bool:
    """Whether a directory has train/, itself or in one of its folders."""
    with damage(folder):
        return any(os.path.isdir(below / "train") for below in (folder, *folder.iterdir()))


def _in_part(path: str) -> bool:
    """Whether a path is inside a part, at the root or below one top folder."""
    return is_visible(path) and any(name in PARTS for name in path.split("/")[:2])


def _list_directory(root: Path, poll: Poll) -> tuple[Ranges, set[str], dict[str, str]]:
    """The images of a directory, its folders, and the texts of the layout."""
    images: Ranges = {}
    folders: set[str] = set()
    texts: dict[str, str] = {}

    def visit(folder: Path, prefix: str, depth: int) -> None:
        with damage(folder), os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir():
                    # Only folders that can hold a part are entered: `root` may be a home directory.
                    holds = depth == 0 and os.path.isdir(os.path.join(entry.path, "train"))
                    if depth < _DEPTH and is_visible(path) and (holds or _in_part(path)):
                        folders.add(path)
                        visit(Path(entry.path), path + "/", depth + 1)
                elif entry.name in (ANNOTATIONS, WORDS):
                    texts[entry.name] = _text(Path(entry.path).read_bytes, entry.stat().st_size)
                elif is_image(path) and _in_part(path):
                    poll()
                    # The size of a broken link is not known: the image is unreadable.
                    size = entry.stat().st_size if os.path.exists(entry.path) else 0
                    images[path] = (entry.path, 0, size)

    visit(root, "", 0)
    return images, folders, texts


def _text(read: Callable[[], bytes], size: int) -> str:
    """A text of the layout; one that is far too large is something else."""
    return read().decode("utf-8", "replace") if size <= _MAX_TEXT else ""


def _list_tar(path: Path, poll: Poll) -> tuple[Ranges, set[str], dict[str, str]]:
    """The images of a tar, its folders, and the texts of the layout.

    Raises:
      InputError: the archive is damaged, or an image is a link or impossibly large.
    """
    images: Ranges = {}
    folders: set[str] = set()
    texts: dict[str, str] = {}
    for member in members(path):
        poll()
        base = member.name.rsplit("/", 1)[-1]
        if member.kind == "folder":
            folders.add(member.name)
        elif member.kind == "file" and base in (ANNOTATIONS, WORDS):
            texts[base] = _text(member.read, member.size)
        elif is_image(base) and _in_part(member.name):
            if member.kind != "file":
                raise InputError(
                    f"image {member.name} in {path} is a link or a sparse file",
                    "plain files",
                    "pack it again with tar --dereference --hard-dereference",
                )
            if member.size > MAX_BYTES:
                raise truncated(path, f"image {member.name} claims {member.size} bytes")
            # A later entry replaces an earlier one of the same name.
            images[member.name] = (str(path), member.offset, member.size)
    return images, folders, texts
