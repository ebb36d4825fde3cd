"""Folders of WebDataset shards: the splits, and the names of the classes.

The names of the classes are in a text beside the shards, one a line, where there is one.
"""

from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import read_text, text_lines
from frepo_scale.data.archive import TARS, is_gzip
from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.label_names import LabelNames, label_names
from frepo_scale.data.sources.listing import NO_TEST_PART, Listing, Part, PartBuilder, Poll
from frepo_scale.data.sources.splits import TEST_SPLITS, find_shards
from frepo_scale.data.sources.webdataset_files import is_shard, read_samples

_NAME_FILES = ("classnames.txt", "classes.txt", "labels.txt", "label.labels.txt")


class WebDataset:
    """A folder of shards of both parts."""

    form = "WebDataset shards"

    def matches(self, path: Path) -> bool:
        """See `Source`; a single shard matches, to be refused by name."""
        if path.is_file():
            return path.name.endswith(TARS) and is_shard(path)
        shards = find_shards(path, TARS) if path.is_dir() else None
        return shards is not None and is_shard(shards.splits["train"][0])

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`."""
        shards = find_shards(path, TARS) if path.is_dir() else None
        if shards is None:
            raise InputError(
                f"{path} is one shard of a WebDataset",
                "the folder of all shards, those of train and of test or validation",
                f"give {path.absolute().parent}",
            )
        shards.check()
        census = Census()
        test = next((s for s in TEST_SPLITS if _is_labelled(shards.splits.get(s, []))), None)
        read = ("train", test) if test else ("train",)
        tables = tuple(name for name in _NAME_FILES if (shards.folder / name).is_file())
        names = None
        if tables:
            names = text_lines(read_text(shards.folder / tables[0]))
        labels = label_names(names, tables[0] if tables else "")
        parts = [_part(shards.splits[split], labels, census, poll) for split in read]
        like = shards.count(census, read, tables[:1])
        return Listing(
            form="WebDataset shards",
            train=parts[0],
            test=parts[1] if test else PartBuilder().part(),
            class_names=labels.names,
            wnids=labels.wnids,
            notes=(labels.note,) if test else (labels.note, NO_TEST_PART),
            census=census,
            test_like=like,
        )


def _is_labelled(shards: list[Path]) -> bool:
    """Whether there are shards, and their first samples have classes."""
    return bool(shards) and is_shard(shards[0])


def _part(files: list[Path], labels: LabelNames, census: Census, poll: Poll) -> Part:
    """The samples of all shards of a split."""
    builder = PartBuilder()
    for file in files:
        for name, label, offset, size in read_samples(file, census, poll):
            ours = labels.ours(label)
            builder.add(f"{labels.folder(ours)}/{name}", ours, str(file), offset, size)
    return builder.part(compressed=any(map(is_gzip, files)))
