"""Class folders, in a directory or a tar, as ranges of bytes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, is_gzip, open_stream
from frepo_scale.data.folder import list_directory, tar_images
from frepo_scale.data.layout import Layout, read_layout
from frepo_scale.data.prepare.listing import COPY, Listing, Part, PartBuilder
from frepo_scale.data.prepare.wordnet import wnids_of

_PIECE = 1 << 22


def list_folders(place: Path, check: Callable[[], None]) -> Listing:
    """The images of `train/<class>/<image>` and `test/<class>/<image>`, the latter if there.

    Args:
      place: a directory, a .tar or a .tar.gz (which needs a copy: it has no random access).
      check: called for every image; may raise to stop.

    Raises:
      InputError: wrong layout, damaged archive, links in it.
    """
    if place.is_dir():
        images, folders, texts = list_directory(place)
        layout = read_layout(images, folders, texts, str(place), None, need_test=False)

        def file_part(rows: list[tuple[str, int]]) -> Part:
            builder = PartBuilder()
            for path, label in rows:
                check()
                file = place / path
                size = os.stat(file).st_size if file.exists() else 0  # a broken link: unreadable
                builder.add(_name(layout, path, label), label, str(file), 0, size)
            return builder.part()

        return _listing("class folders", layout, file_part(layout.train), file_part(layout.test))

    found: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    texts = {}
    for member in tar_images(place, seen, texts):
        check()
        found[member.name] = (member.offset, member.size)  # a later entry replaces an earlier one
    layout = read_layout(found, seen, texts, str(place), None, need_test=False)
    zipped = is_gzip(place)
    source = COPY if zipped else str(place)
    end = place.stat().st_size

    def tar_part(rows: list[tuple[str, int]]) -> Part:
        builder = PartBuilder()
        for path, label in rows:
            offset, size = found[path]
            if not zipped and offset + size > end:
                raise InputError(
                    f"{place} is cut off or damaged (it ends inside {path})",
                    "an intact file",
                    "fetch or copy it again",
                )
            builder.add(_name(layout, path, label), label, source, offset, size)
        return builder.part()

    def copy(out: BinaryIO) -> None:
        with damage(place), open_stream(place) as stream:
            while piece := stream.read(_PIECE):
                check()
                out.write(piece)

    train, test = tar_part(layout.train), tar_part(layout.test)
    if not zipped:
        return _listing("tar of class folders", layout, train, test)
    size = max((offset + size for offset, size in found.values()), default=0)
    return _listing("compressed tar of class folders", layout, train, test, copy, size)


def _name(layout: Layout, path: str, label: int) -> str:
    """What an image is called wherever it lies: its class and its file's name."""
    return f"{layout.folders[label]}/{path.rsplit('/', 1)[-1]}"


def _listing(
    form: str,
    layout: Layout,
    train: Part,
    test: Part,
    copy: Callable[[BinaryIO], None] | None = None,
    copy_bytes: int = 0,
) -> Listing:
    notes = () if layout.part else ("no test part with classes: the set has training images only",)
    return Listing(
        form=form,
        name=None,
        class_names=layout.class_names,
        wnids=wnids_of(layout.folders),
        channels=3,
        train=train,
        test=test,
        notes=notes,
        copy=copy,
        copy_bytes=copy_bytes,
    )
