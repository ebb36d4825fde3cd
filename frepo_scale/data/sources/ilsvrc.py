"""The ILSVRC archives as they are published, read in place.

`ILSVRC2012_img_train.tar` is a tar of one tar per class; `ILSVRC2012_img_val.tar` holds the
validation images without classes, which are in a separate file.
"""

from collections.abc import Iterator
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import Member, is_gzip, members, truncated
from frepo_scale.data.decode import MAX_BYTES, is_image
from frepo_scale.data.sources.census import (
    LEFTOVER,
    REPLACED,
    TEXT,
    Census,
    is_text,
    leftover,
    looks_like_test,
)
from frepo_scale.data.sources.listing import (
    NO_TEST_PART,
    Listing,
    PartBuilder,
    Poll,
    TestLike,
)
from frepo_scale.data.sources.truth import GROUND_TRUTH, TRUTHS, find_truth
from frepo_scale.data.sources.wordnet import DEVKIT_FILES, is_wnid, wnids_of

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_AGAIN = "download it again"


class IlsvrcArchives:
    """A folder with `TRAIN`, and perhaps `VALIDATION` with its ground truth."""

    form = "the archives of ILSVRC2012"

    def matches(self, path: Path) -> bool:
        """See `Source`."""
        return (path / TRAIN).is_file() if path.is_dir() else path.name == TRAIN

    def listing(self, path: Path, poll: Poll) -> Listing:
        """See `Source`; classes are sorted by WordNet id."""
        folder = path if path.is_dir() else path.parent
        census = Census()
        beside = census.folder(folder, {TRAIN, VALIDATION, *TRUTHS, *DEVKIT_FILES})
        classes = _training_images(folder / TRAIN, poll, census)
        wnids = sorted(classes)
        train = PartBuilder()
        for label, wnid in enumerate(wnids):
            for base, offset, size in classes[wnid]:
                train.add(f"{wnid}/{base}", label, str(folder / TRAIN), offset, size)
        test, note = _validation(folder, wnids, poll, census)
        like = [name for name in beside if looks_like_test(name)]
        return Listing(
            form="ILSVRC archives",
            train=train.part(),
            test=test.part(),
            class_names=tuple(wnids),
            wnids=wnids_of(wnids),
            name="imagenet1k",
            notes=(note,),
            census=census,
            test_like=_test_like(like) if like and note == NO_TEST_PART else None,
        )


def _test_like(names: list[str]) -> TestLike:
    """What is beside the training archive may be the validation images, unpacked."""
    what = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    return TestLike(
        f"{what} beside {TRAIN} may be the validation images",
        f"put {VALIDATION} there as it was downloaded",
    )


def _training_images(
    path: Path, poll: Poll, census: Census
) -> dict[str, list[tuple[str, int, int]]]:
    """File name, offset and size of the images of each class, by WordNet id."""
    classes: dict[str, list[tuple[str, int, int]]] = {}
    _check_plain(path)
    for member in members(path):
        name = member.name.rsplit("/", 1)[-1]
        if member.kind == "folder" or _ignored(member, census):
            continue
        if member.kind != "file" or not name.endswith(".tar"):
            fix = f"{_AGAIN}; a tar of train/<class>/<image> must have another name"
            raise InputError(f"{member.name} in {path}", "one tar per class", fix)
        wnid = name.removesuffix(".tar")
        if wnid in classes:
            raise InputError(f"{path} has {name} twice", "one tar per class", _AGAIN)
        census.hold()
        classes[wnid] = list(_class_images(path, member, wnid, poll, census))
    if not classes:
        raise InputError(f"{path} is empty", "one tar per class", _AGAIN)
    return classes


def _class_images(
    path: Path, inner: Member, wnid: str, poll: Poll, census: Census
) -> Iterator[tuple[str, int, int]]:
    """File name, offset in `path` and size of the images of one class."""
    for image in members(path, inside=inner):
        poll()
        if image.kind == "folder" or _ignored(image, census):
            continue
        _check_image(path, image)
        base = image.name.rsplit("/", 1)[-1]
        named = base.split("_")[0]
        if is_wnid(named) and named != wnid:
            raise InputError(f"{inner.name} in {path} holds {base}", f"images of {wnid}", _AGAIN)
        yield base, image.offset, image.size


def _ignored(member: Member, census: Census) -> bool:
    """Counts a member of an archive; whether it is neither an image nor an archive of them."""
    census.see()
    if leftover(member.name) is not None:
        census.ignore(LEFTOVER, member.name)
    elif is_text(member.name.rsplit("/", 1)[-1]):
        census.ignore(TEXT, member.name)
    else:
        return False
    return True


def _check_plain(path: Path) -> None:
    """Refuses an archive without random access."""
    if is_gzip(path):
        raise InputError(f"{path} is compressed", "a plain tar, read in place", "gunzip it")


def _check_image(path: Path, image: Member) -> None:
    """Refuses links and impossible sizes."""
    if image.kind != "file":
        fix = f"{_AGAIN}, or pack it with tar --dereference --hard-dereference"
        raise InputError(f"image {image.name} in {path} is a link", "plain files", fix)
    if image.size > MAX_BYTES and is_image(image.name):
        raise truncated(path, f"image {image.name} claims {image.size} bytes")


def _validation(
    folder: Path, wnids: list[str], poll: Poll, census: Census
) -> tuple[PartBuilder, str]:
    """The validation images with their labels, and where the labels come from."""
    builder = PartBuilder()
    path = folder / VALIDATION
    if not path.exists():
        return builder, NO_TEST_PART
    _check_plain(path)
    images: dict[str, Member] = {}
    for member in members(path):
        poll()
        if member.kind == "folder" or _ignored(member, census):
            continue
        _check_image(path, member)
        if member.name in images:
            census.ignore(REPLACED, member.name)
        images[member.name] = member
    if not images:
        raise InputError(f"{path} holds no image", "the validation images", _AGAIN)
    folders = {name: name.split("/")[-2] if "/" in name else "" for name in images}
    if any(is_wnid(folder) or folder in wnids for folder in set(folders.values())):
        classes, origin = folders, f"the folders in {path}"
    else:
        truth = find_truth([folder])
        if truth is None:
            raise InputError(
                f"{path} has no classes: no ground truth beside it",
                f"one of {', '.join(TRUTHS)} in {folder}, or the images in folders named by wnid",
                f"take {GROUND_TRUTH} out of ILSVRC2012_devkit_t12.tar.gz, or copy that archive"
                " there",
            )
        classes, origin = truth.classes(images, set(wnids).__contains__), truth.origin
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    for name in sorted(images):
        wnid = classes[name]
        if wnid not in labels:
            raise InputError(
                f"{origin}: {name} is of class {wnid}",
                f"a class of {TRAIN}",
                "check that both archives are complete and of the same year",
            )
        base = name.rsplit("/", 1)[-1]
        member = images[name]
        builder.add(f"{wnid}/{base}", labels[wnid], str(path), member.offset, member.size)
    return builder, f"classes of the validation images from {origin}"
