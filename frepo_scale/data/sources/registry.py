"""Finding the source that reads a path: the only dispatcher, for `prepare` and for runs."""

import re
from dataclasses import replace
from pathlib import Path

from frepo_scale.core.dotted import import_class
from frepo_scale.core.errors import InputError, Preempted, RunError
from frepo_scale.core.paths import looks_like_url
from frepo_scale.data.archive import ARCHIVES, TARS, damage
from frepo_scale.data.sources.census import is_leftover, looks_like_test
from frepo_scale.data.sources.checks import checked
from frepo_scale.data.sources.cifar import CifarFiles
from frepo_scale.data.sources.class_folders import ClassFolders
from frepo_scale.data.sources.cub200 import Cub200
from frepo_scale.data.sources.idx import IdxFiles
from frepo_scale.data.sources.ilsvrc import IlsvrcArchives
from frepo_scale.data.sources.imagenet_batches import ImagenetBatches
from frepo_scale.data.sources.listing import Listing, Poll, Source, TestLike
from frepo_scale.data.sources.medmnist import MedMnist
from frepo_scale.data.sources.npz import NpzArrays
from frepo_scale.data.sources.parquet import ParquetShards
from frepo_scale.data.sources.tfrecords import TfRecords
from frepo_scale.data.sources.torchvision import TorchvisionIdx
from frepo_scale.data.sources.unsupported import refuse_unsupported
from frepo_scale.data.sources.webdataset import WebDataset

# In this order. A new form is a module in this package and a line here.
SOURCES: tuple[Source, ...] = (
    IlsvrcArchives(),
    TfRecords(),
    ImagenetBatches(),
    ParquetShards(),
    WebDataset(),
    IdxFiles(),
    TorchvisionIdx("mnist"),
    TorchvisionIdx("fashion_mnist"),
    CifarFiles("cifar10"),
    CifarFiles("cifar100"),
    Cub200(),
    MedMnist(),
    NpzArrays(),
    ClassFolders(),
)
_PART = re.compile(r"\d|train|test|val")  # what differs in the names of the parts of one set
# The simplest ones first; docs/recipes.md says what each one looks like.
FORMS = "; ".join(dict.fromkeys(source.form for source in reversed(SOURCES)))


def find_source(path: Path, dataset: str | None = None) -> tuple[Source, Path] | None:
    """The source that reads a path, and the path it reads; None if none does.

    Unpacked data are preferred, because archives are often left beside them.

    Args:
      path: a file or folder that exists.
      dataset: a published data set; sources of other published sets are not tried.

    Raises:
      InputError: several data sets are at the path.
    """
    found = []
    if path.is_file() and path.name.endswith(TARS):
        refuse_unsupported(path)
    for source in SOURCES:
        own = getattr(source, "dataset", None)
        if (own is None or dataset in (None, own)) and source.matches(path):
            found.append((source, own))
            if own is None:
                break
    published = [own for _, own in found if own is not None]
    if len(published) > 1:
        raise InputError(
            f"{path} holds {' and '.join(published)}",
            "one data set",
            "give the path of the folder or archive of one of them",
        )
    if found:
        return found[0][0], path
    archives = _archives(path) if path.is_dir() else []
    if len(archives) != 1:
        refuse_unsupported(path)
    if len(archives) > 1:
        raise _several(path, archives)
    return find_source(archives[0], dataset) if archives else None


def _several(path: Path, archives: list[Path]) -> InputError:
    """The error for a folder with archives of which none can be chosen."""
    what = f"{path} holds several archives: {', '.join(archive.name for archive in archives[:5])}"
    what += f", ... ({len(archives)})" if len(archives) > 5 else ""
    heads = {_PART.split(archive.name)[0] for archive in archives}
    if len(heads) == 1 and all(_PART.search(archive.name) for archive in archives):
        # One of them alone would be a part of the data.
        return InputError(
            f"{what}, which look like the parts of one data set",
            f"a form whose parts are read together: {FORMS}",
            "unpack all of them into one folder with train/<class>/<image> and"
            f" test/<class>/<image>; if they are different data sets, give the path of one of them,"
            f" such as {archives[0]}",
        )
    return InputError(what, "one data set", f"give the path of one of them, such as {archives[0]}")


def _archives(folder: Path) -> list[Path]:
    """The archives of a folder."""
    with damage(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file())
    return [p for p in files if p.name.endswith(ARCHIVES) and not is_leftover(p.name)]


def list_source(path: Path, poll: Poll = lambda: None, source_class: str | None = None) -> Listing:
    """All images at a path, in any known form.

    Args:
      path: a file or folder.
      poll: called repeatedly; may raise to stop.
      source_class: the dotted path of a source class of the user's own; no other is tried.

    Raises:
      InputError: the path does not exist, has no known form, is damaged, or a label is wrong.
    """
    if looks_like_url(path):
        raise InputError(f"source {path} is a URL", "a local path", "copy the data first")
    if source_class is not None:
        return list_with(own_source(source_class), path, poll, None, own=True)
    if not path.exists():
        raise InputError(f"source {path} does not exist", FORMS, "check the path")
    found = find_source(path)
    if found is None:
        raise InputError(f"source {path} has no known form", FORMS, "check the path")
    return list_with(*found, poll, None, given=path)


def list_with(
    source: Source,
    path: Path,
    poll: Poll,
    num_classes: int | None,
    class_names: tuple[str, ...] | None = None,
    own: bool = False,
    given: Path | None = None,
) -> Listing:
    """The listing of a source, checked.

    Args:
      source: the source.
      path: what it reads.
      poll: see `Source.listing`.
      num_classes: K the data set must have; None: any from 2 on.
      class_names: names for classes that are only numbered.
      own: whether the source is the user's own, so that any failure of it is wrong input.
      given: the folder that was given, where `path` is an archive in it; its files are counted.

    Raises:
      InputError: the data are wrong, or a source of the user's own fails.
    """
    found = _list_own(source, path, poll) if own else source.listing(path, poll)
    if found.class_names is None and class_names is not None:
        found = replace(found, class_names=class_names)
    if given not in (None, path) and found.census is not None:
        beside = found.census.folder(path.parent, {path.name})
        like = [name for name in beside if looks_like_test(name)]
        if like and not len(found.test) and found.test_like is None:
            text = f"{like[0]} beside {path.name} looks like a test part"
            found = replace(found, test_like=TestLike(text, "put it into that archive as test/"))
    return checked(found, str(path), num_classes)


def own_source(dotted: str) -> Source:
    """An instance of the source class with a dotted path.

    Raises:
      InputError: it cannot be imported, or lacks a method of `Source`.
    """
    cls = import_class("source class", dotted, object)
    try:
        source: Source = cls()  # type: ignore[assignment]  # checked below
    except Exception as error:  # a user's class can fail in any way
        raise InputError(
            f"source class {dotted!r} cannot be constructed ({error})",
            "a class that needs no arguments",
        ) from error
    for method in ("matches", "listing"):
        if not callable(getattr(source, method, None)):
            raise InputError(
                f"source class {dotted!r} has no method {method}",
                "matches(path) and listing(path, poll)",
                "see docs/how-to/data-source.md",
            )
    return source


def _list_own(source: Source, path: Path, poll: Poll) -> Listing:
    """The listing of a source class of the user's own, whose failures are wrong input."""
    name = type(source).__name__
    try:
        if not source.matches(path):
            raise InputError(f"source class {name} does not match {path}", "a path that it matches")
        found = source.listing(path, poll)
    except (InputError, RunError, Preempted, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"source class {name} failed on {path} ({type(error).__name__}: {error})",
            "a Listing",
            "see docs/how-to/data-source.md",
        ) from error
    if not isinstance(found, Listing):
        raise InputError(f"source class {name} returned {type(found).__name__}", "a Listing")
    return found
