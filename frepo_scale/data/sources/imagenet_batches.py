"""The downsampled ImageNet of image-net.org: train_data_batch_1, ... and val_data, .npz or pickles.

Labels count from 1 in the order of the ILSVRC devkit.
"""

from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import truncated
from frepo_scale.data.sources.census import Census, looks_like_test
from frepo_scale.data.sources.channels_first import ChannelsFirst
from frepo_scale.data.sources.imagenet_batch_files import (
    TEST,
    Batch,
    batch_number,
    find_batches,
    read_batch,
)
from frepo_scale.data.sources.label_names import LabelNames, label_names
from frepo_scale.data.sources.listing import (
    NO_TEST_PART,
    Listing,
    Part,
    PartBuilder,
    Poll,
    TestLike,
)
from frepo_scale.data.sources.wordnet import DEVKIT_FILES, ORDER_FILES, ilsvrc_order

_PUBLISHED = "10 and 1,281,167"
_IMAGENET = 1000


class ImagenetBatches:
    """A folder with the batches, or with folders of them."""

    form = "the batches of the downsampled ImageNet"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return path.is_dir() and bool(find_batches(path)[0])

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; classes are sorted by WordNet id."""
        train, test, folders = find_batches(path)
        numbers = sorted(int(batch_number(file)) for file in train)
        if numbers != list(range(1, len(train) + 1)):
            raise InputError(
                f"{path} has the training batches {', '.join(map(str, numbers))}",
                "every batch once, numbered from 1",
                "download the missing ones, or keep one form of each",
            )
        order = next((o for o in map(ilsvrc_order, [path, *folders]) if o is not None), None)
        if order is None:
            raise InputError(
                f"the batches in {path} number the classes in the devkit's own order",
                f"a file with that order: {ORDER_FILES}",
                f"put one of them into {path}",
            )
        labels = label_names(order, "the devkit's table")
        parts = [_part([read_batch(f, poll) for f in files], labels) for files in (train, test)]
        if test and parts[0].shape != parts[1].shape:
            raise truncated(test[0], f"its images are {parts[1].shape}, others {parts[0].shape}")
        census = Census(sum(map(len, parts)))
        beside: list[str] = []
        for folder in {path, *folders}:
            held = {file.name for file in (*train, *test) if file.parent == folder}
            held |= set(DEVKIT_FILES)
            beside += census.folder(folder, held, {f.name for f in folders if folder == path != f})
        like = next(filter(looks_like_test, sorted(beside)), None)
        whole = f"training batches: {len(train)}, images: {len(parts[0]):,}"
        return Listing(
            form="batches of the downsampled ImageNet",
            train=parts[0],
            test=parts[1],
            class_names=labels.names,
            wnids=labels.wnids,
            name="imagenet1k" if len(order) == _IMAGENET else None,
            notes=(
                f"{whole} (published: {_PUBLISHED})",
                labels.note,
                "the images were squashed to squares before they were stored",
                *(() if test else (NO_TEST_PART,)),
            ),
            fit="squash",
            census=census,
            test_like=None
            if test or like is None
            else TestLike(
                f"{like} looks like a test part", f"unpack it: {TEST[0]} or {TEST[1]} is read"
            ),
        )


def _part(batches: list[Batch], labels: LabelNames) -> Part:
    """The images of a split."""
    builder = PartBuilder()
    side = batches[0].side if batches else 0
    for batch in batches:
        if batch.side != side:
            raise truncated(batch.path, f"its images have side {batch.side}, others {side}")
        size = 3 * side * side
        for row, stored in enumerate(batch.labels.tolist()):
            if not 1 <= stored <= len(labels.names or ()):
                raise InputError(
                    f"label {stored} of image {row} in {batch.path}",
                    f"1 to {len(labels.names or ())}, the numbers of the devkit's table",
                    "download the batch or the table again",
                )
            label = labels.ours(stored - 1)
            name = f"{labels.folder(label)}/{batch.path.name.removesuffix('.npz')}#{row:07}"
            builder.add(name, label, str(batch.path), batch.start + row * size, size)
    packed = any(batch.packed for batch in batches)
    shape = (side, side, 3) if batches else None
    return builder.part(packed, ChannelsFirst, shape)
