"""CUB-200-2011 as it is distributed: photographs of birds, and tables of classes and parts."""

from itertools import islice
from pathlib import Path

from frepo_scale.data.archive import TARS, ZIPS, is_gzip, members
from frepo_scale.data.sources.census import LEFTOVER, leftover
from frepo_scale.data.sources.cub200_files import (
    CLASSES,
    FOLDER,
    IMAGES,
    LABELS,
    SPLIT,
    TABLES,
    find_root,
    read_files,
    read_table,
    wrong,
)
from frepo_scale.data.sources.listing import Listing, PartBuilder, Poll
from frepo_scale.data.zip_archive import ZipImages, entries

_PEEK = 64  # entries of an archive that show what it is
_NOT_LISTED = f"not in {IMAGES}"


class Cub200:
    """The folder, or the archive, of CUB-200-2011."""

    dataset = "cub200"
    form = "CUB-200"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        if path.is_dir():
            return find_root(path) is not None
        if not path.is_file():
            return False
        names: list[str] = []
        if path.name.endswith(TARS):
            names = [member.name for member in islice(members(path), _PEEK)]
        elif path.name.endswith(ZIPS):
            names = [entry.name for entry in entries(path)]
        return any(FOLDER in name.split("/") or name.endswith(LABELS) for name in names)

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        files, texts, census = read_files(path, poll)
        tables = {name: read_table(texts, name, path) for name in TABLES}
        images, classes = tables[IMAGES], tables[CLASSES]
        order = sorted(classes, key=int)
        for name, other in ((LABELS, images), (SPLIT, images)):
            for key in sorted(tables[name].keys() ^ other.keys(), key=int):
                raise wrong(path, f"{name} and {IMAGES} do not both have image {key}")
        parts = {"1": PartBuilder(), "0": PartBuilder()}
        for key, image in images.items():
            poll()
            found, label, part = files.pop(image, None), tables[LABELS][key], tables[SPLIT][key]
            if found is None:
                raise wrong(path, f"images/{image} is missing")
            if label not in classes or part not in parts:
                raise wrong(path, f"image {key} has class {label!r} and part {part!r}")
            census.see()
            name = f"{classes[label]}/{image.rpartition('/')[2]}"
            parts[part].add(name, order.index(label), *found)
        for image in files:
            census.see()
            census.ignore(LEFTOVER if leftover(image) else _NOT_LISTED, image)
        compressed = path.name.endswith(TARS) and path.is_file() and is_gzip(path)
        opener = ZipImages if path.name.endswith(ZIPS) and path.is_file() else None
        return Listing(
            form="CUB-200",
            train=parts["1"].part(compressed, opener),
            test=parts["0"].part(compressed, opener),
            class_names=tuple(classes[key] for key in order),
            name=self.dataset,
            census=census,
        )
