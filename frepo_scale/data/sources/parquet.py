"""Folders of Parquet files with encoded images and labels, as Hugging Face stores data sets."""

from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.label_names import LabelNames, label_names
from frepo_scale.data.sources.listing import NO_TEST_PART, Listing, Part, PartBuilder, Poll
from frepo_scale.data.sources.parquet_files import (
    ParquetImages,
    class_names,
    encoded,
    open_parquet,
    parquet_columns,
    read_rows_of,
)
from frepo_scale.data.sources.splits import TEST_SPLITS, find_shards, is_named_shard

_ENDING = (".parquet",)
_UNLABELLED = -1  # what data sets with secret test labels store


class ParquetShards:
    """A folder of Parquet files with a column of images and one of labels."""

    form = "Parquet files"

    def matches(self, path: Path) -> bool:
        """See `Source`; a single file matches, to be refused by name."""
        if path.is_file():
            return is_named_shard(path, _ENDING)
        return path.is_dir() and find_shards(path, _ENDING) is not None

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; every row is read once, for the size of its image."""
        shards = find_shards(path, _ENDING) if path.is_dir() else None
        if shards is None:
            raise InputError(
                f"{path} is one Parquet file",
                "a folder with train-....parquet and test-....parquet or validation-....parquet",
                f"give {path.absolute().parent}, with files named like this",
            )
        shards.check()
        census = Census()
        given = class_names(shards.splits["train"][0])
        labels = label_names(given, shards.splits["train"][0].name)
        test = next((s for s in TEST_SPLITS if _is_labelled(shards.splits.get(s, []))), None)
        read = ("train", test) if test else ("train",)
        parts = [_part(shards.splits[split], labels, poll) for split in read]
        census.see(sum(map(len, parts)))
        like = shards.count(census, read, ())
        return Listing(
            form="Parquet",
            train=parts[0],
            test=parts[1] if test else PartBuilder().part(),
            class_names=labels.names,
            wnids=labels.wnids,
            notes=(labels.note,) if test else (labels.note, NO_TEST_PART),
            census=census,
            test_like=like,
        )


def _is_labelled(files: list[Path]) -> bool:
    """Whether there are files, and the first row has a class."""
    for path in files[:1]:
        for batch in read_rows_of(path, (parquet_columns(open_parquet(path), path)[1],)):
            return bool(batch.column(0)[:1].to_pylist() not in ([], [None], [_UNLABELLED]))
    return False


def _part(files: list[Path], labels: LabelNames, poll: Poll) -> Part:
    """The images of a split, each by its row."""
    builder = PartBuilder()
    for path in files:
        columns = parquet_columns(open_parquet(path), path)
        row = 0
        for batch in read_rows_of(path, columns):
            poll()
            values = batch.column(columns[1]).to_pylist()
            for image, value in zip(encoded(batch, columns[0]), values, strict=True):
                if not image.is_valid or value is None:
                    raise InputError(
                        f"row {row} of {path} has no {'label' if image.is_valid else 'image'}",
                        "an encoded image and a label in every row",
                        "write it again with the images in it, not their paths alone",
                    )
                label = labels.ours(value)
                name = f"{labels.folder(label)}/{path.stem}#{row:07}"
                builder.add(name, label, str(path), row, len(image.as_buffer()))
                row += 1
    return builder.part(compressed=True, opener=ParquetImages)
