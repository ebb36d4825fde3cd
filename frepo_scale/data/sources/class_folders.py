"""Class folders, `train/<class>/<image>` and a test part, in a directory, a tar or a zip."""

import os
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import TARS, ZIPS, Member, damage, is_gzip, members, truncated
from frepo_scale.data.decode import MAX_BYTES, is_image
from frepo_scale.data.sources.census import REPLACED, Census, is_leftover, is_text, leftover
from frepo_scale.data.sources.layout import (
    BELOW,
    PARTS,
    TABLES,
    Layout,
    in_part,
    read_layout,
)
from frepo_scale.data.sources.listing import NO_TEST_PART, Listing, PartBuilder, Poll
from frepo_scale.data.sources.truth import KAGGLE, Truth, find_truth
from frepo_scale.data.sources.wordnet import wnids_of
from frepo_scale.data.sources.zip_files import ZipFiles
from frepo_scale.data.zip_archive import ZipImages

_MAX_TEXT = 64 << 20
_CLASS = 2  # folders of a class within the folder above train/: train/<class>
_ABOVE = 4  # folders above the source that may have Kaggle's table, which is four above train/

# File, offset and size of a file by its path within the data set.
Ranges = dict[str, tuple[str, int, int]]


class ClassFolders:
    """A directory, a .tar, a .tar.gz or a .zip of class folders; see `layout`."""

    form = "train/<class>/<image> and test/<class>/<image> in a folder, a .tar[.gz] or a .zip"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        if path.is_dir():
            return bool(_tops(path))
        return path.is_file() and path.name.endswith((*TARS, *ZIPS))

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; the test part may be missing."""
        folder = path.is_dir()
        zipped = not folder and path.name.endswith(ZIPS)
        found: _Files | ZipFiles
        if zipped:
            found = ZipFiles(path, TABLES, poll)
        else:
            found = (_Directory if folder else _Tar)(path, poll)

        def above() -> Truth | None:
            parents = path.absolute().parents[:_ABOVE]
            tops = [path / top for top in _tops(path)] if folder else []
            own = [*tops, path] if folder else parents[:1]
            return find_truth(own) or find_truth(parents, (KAGGLE,))

        layout = read_layout(found.files, found.folders, found.texts, str(path), above)
        layout.census.merge(found.census)
        read = (not folder and not zipped and is_gzip(path), ZipImages if zipped else None)
        return Listing(
            form="class folders",
            train=_part(layout, layout.train, found.files).part(*read),
            test=_part(layout, layout.test, found.files).part(*read),
            class_names=layout.class_names,
            wnids=wnids_of(layout.folders),
            notes=layout.notes if layout.test else (NO_TEST_PART,),
            census=layout.census,
            test_like=layout.test_like,
        )


def _part(layout: Layout, rows: list[tuple[str, int]], found: Ranges) -> PartBuilder:
    """One part; images are named `<class>/<file>` in every form."""
    builder = PartBuilder()
    for path, label in rows:
        builder.add(f"{layout.folders[label]}/{path.rpartition('/')[2]}", label, *found[path])
    return builder


def _tops(folder: Path) -> list[str]:
    """The folders above train/, each with its slash: the directory itself, or ones below it."""
    with damage(folder):
        if os.path.isdir(folder / "train"):
            return [""]
        below = ["", *(f"{name}/" for name in sorted(os.listdir(folder)) if not is_leftover(name))]
        tops = (top + between for top in below for between in BELOW)
        return [top for top in dict.fromkeys(tops) if os.path.isdir(folder / top / "train")]


class _Files:
    """All files of a source by path, its folders, and the tables of the layout."""

    def __init__(self) -> None:
        self.files: Ranges = {}
        self.folders: set[str] = set()
        self.texts: dict[str, bytes] = {}
        self.census = Census()


class _Directory(_Files):
    """A directory, of which only folders are entered that lead to a part: it may be a home."""

    def __init__(self, root: Path, poll: Poll) -> None:
        super().__init__()
        self._poll, self._tops = poll, _tops(root)
        self._visit(root, "")

    def _visit(self, folder: Path, prefix: str) -> None:
        with damage(folder), os.scandir(folder) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir():
                    self._folder(Path(entry.path), path)
                    continue
                self._poll()
                # The size of a broken link is not known: the image is unreadable.
                size = entry.stat().st_size if os.path.exists(entry.path) else 0
                self.files[path] = (entry.path, 0, size)
                if entry.name in TABLES and size <= _MAX_TEXT:
                    self.texts[path] = Path(entry.path).read_bytes()

    def _folder(self, folder: Path, path: str) -> None:
        self.folders.add(path)
        if leftover(path) is not None:
            return
        below = f"{path}/"
        if any(top.startswith(below) for top in self._tops):
            self._visit(folder, below)
        for top in self._tops:
            names = path[len(top) :].split("/")
            if not path.startswith(top) or names[0] not in PARTS:
                continue
            if len(names) <= _CLASS + 1:  # one below the class, so that what is there is reported
                self._visit(folder, below)
            elif any(not is_leftover(name) for name in os.listdir(folder)):
                self.files[f"{below}*"] = (str(folder), 0, 0)
            return


class _Tar(_Files):
    """A tar, in one pass.

    Raises:
      InputError: the archive is damaged, or an image is a link or impossibly large.
    """

    def __init__(self, path: Path, poll: Poll) -> None:
        super().__init__()
        for member in members(path):
            poll()
            name, base = member.name, member.name.rsplit("/", 1)[-1]
            if member.kind == "folder":
                self.folders.add(name)
                continue
            if leftover(name) is None and in_part(name) and not is_text(base):
                _check_image(path, member)
            if name in self.files:
                self.census.see()
                self.census.ignore(REPLACED, name)
            self.files[name] = (str(path), member.offset, member.size)
            if member.kind == "file" and base in TABLES and member.size <= _MAX_TEXT:
                self.texts[name] = member.read()


def _check_image(path: Path, image: Member) -> None:
    """Refuses links and impossible sizes."""
    if image.kind != "file":
        raise InputError(
            f"image {image.name} in {path} is a link or a sparse file",
            "plain files",
            "pack it again with tar --dereference --hard-dereference",
        )
    if image.size > MAX_BYTES and is_image(image.name):
        raise truncated(path, f"image {image.name} claims {image.size} bytes")
