"""The files of a zip as class folders are found in them: their paths, folders, and tables."""

import zipfile
from collections.abc import Collection
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage, truncated
from frepo_scale.data.decode import MAX_BYTES, is_image
from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.listing import Poll
from frepo_scale.data.zip_archive import ZIP_DAMAGE, Entry, entries, entry_name

_MAX_TEXT = 64 << 20


class ZipFiles:
    """All files of a zip.

    Attributes:
      files: the archive, the offset of the entry for `ZipImages`, and the size, by path.
      folders: the folders.
      texts: contents of the tables, by path.
      census: what is counted here: nothing, every file is in `files`.

    Raises:
      InputError: the archive is refused by `entries`, or an image is a link or impossibly large.
    """

    def __init__(self, path: Path, tables: Collection[str], poll: Poll) -> None:
        """The files of `path`; `tables` are base names of files that are read."""
        self.files: dict[str, tuple[str, int, int]] = {}
        self.folders: set[str] = set()
        self.texts: dict[str, bytes] = {}
        self.census = Census()
        found = entries(path)
        for entry in found:
            poll()
            if entry.kind == "folder":
                self.folders.add(entry.name)
                continue
            if entry.kind != "file":
                raise InputError(
                    f"{entry.name} in {path} is a link",
                    "plain files",
                    "pack it again without the option that stores links (zip without -y)",
                )
            if entry.size > MAX_BYTES and is_image(entry.name):
                raise truncated(path, f"image {entry.name} claims {entry.size} bytes")
            self.files[entry.name] = (str(path), entry.offset, entry.size)
        if self.files and not any(map(is_image, self.files)):
            raise InputError(
                f"{path} holds no image file; its first file is {next(iter(self.files))}",
                "a zip of images in class folders",
                "unpack it and give the folder: other forms are not read in a zip",
            )
        wanted = [e for e in found if e.name.rpartition("/")[2] in tables and e.kind == "file"]
        self.texts = _texts(path, [entry for entry in wanted if entry.size <= _MAX_TEXT])


def _texts(path: Path, wanted: list[Entry]) -> dict[str, bytes]:
    """The contents of small files."""
    names = {entry.name for entry in wanted}
    texts: dict[str, bytes] = {}
    try:
        with damage(path), zipfile.ZipFile(path) as archive:
            for info in archive.infolist() if wanted else []:
                if (name := entry_name(info)) in names:
                    texts[name] = archive.read(info)
    except ZIP_DAMAGE as error:
        raise truncated(path, f"as a zip: {error}") from error
    return texts
