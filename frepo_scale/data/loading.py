"""A data set by its name: finding its files and reading them into memory."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import looks_like_url
from frepo_scale.data.decode import FITS
from frepo_scale.data.memory import Wanted, load_images
from frepo_scale.data.prepared import is_prepared, read_prepared
from frepo_scale.data.sources.class_folders import ClassFolders
from frepo_scale.data.sources.digits import Digits
from frepo_scale.data.sources.listing import Source
from frepo_scale.data.sources.npz import NpzArrays
from frepo_scale.data.sources.registry import FORMS, find_source, list_with, own_source
from frepo_scale.data.sources.specs import DatasetSpec, spec_for
from frepo_scale.data.types import RawDataset

if TYPE_CHECKING:
    from frepo_scale.data.settings import DataConfig

_FIX = "put them there, or give their path with --gin.DATA_DIR=PATH"


def load(
    config: "DataConfig",
    on_disk: Callable[[int], bool] = lambda pixels: False,
    source_class: str | None = None,
) -> RawDataset:
    """Reads a data set into memory, or opens a prepared one.

    Args:
      config: its name and path, and what images of other sizes become.
      on_disk: called for a prepared set, with the bytes of its pixels: whether its images stay on
        disk, to be read when they are needed.
      source_class: the dotted path of a source class of the user's own.

    Returns:
      images (n, R, R, C) uint8 and labels (n,) int32 in [0, K), every class in train; `fit` is
      "native" where no image had to be resized.

    Raises:
      InputError: data missing, of no known form, damaged, or not this data set.
    """
    spec = spec_for(config.name)
    side = config.resolution if config.resolution is not None else spec.resolution
    path = data_path(spec, config.directory, source_class)
    if source_class is None and is_prepared(path):
        fit = config.fit if config.fit != FITS[0] else None  # "crop" is the default: any
        return read_prepared(path, spec, side, fit, on_disk)
    given = path
    source, path = _source(spec, path, config.directory, source_class)
    origin = "scikit-learn" if isinstance(source, Digits) else str(path)
    listing = list_with(
        source,
        path,
        lambda: None,
        spec.num_classes,
        spec.class_names,
        own=source_class is not None,
        given=given,
    )
    sizes = _sizes(spec, config.resolution)
    want = Wanted(spec.channels, side, config.fit, sizes, config.skip_unreadable)
    loaded = load_images(listing, want, origin)
    height, width, channels = loaded.train.images.shape[1:]
    return RawDataset(
        spec.name,
        listing.class_names or (),
        loaded.train,
        loaded.test,
        (height, width, channels),
        "native" if loaded.native else config.fit,
        len(loaded.skipped),
        origin,
        notes=(*listing.notes, *loaded.notes, listing.count(loaded.skipped)),
    )


def _sizes(spec: DatasetSpec, resolution: int | None) -> frozenset[int] | None:
    """Sides that stored images may have: the published one, or the one asked for."""
    if spec.any_size:
        return None
    return frozenset(side for side in (spec.resolution, resolution) if side is not None)


def _expected(spec: DatasetSpec) -> str:
    """The files of a published set or the two simplest forms; for a user's data every form."""
    if not spec.published:
        return FORMS
    return f"{spec.published}; {ClassFolders.form}; or {NpzArrays.form}"


def data_path(spec: DatasetSpec, data_dir: str | None, source_class: str | None) -> Path:
    """The path of the data set: the one given, or the first default path that has data.

    Raises:
      InputError: a URL, or no path is given for data without a default path.
    """
    if data_dir is not None:
        if looks_like_url(data_dir):
            raise InputError(
                f"DATA_DIR = {data_dir} is a URL",
                f"a local path: {_expected(spec)}",
                "mount the bucket, or copy the data, on every machine (of a pod:"
                " launch/tpu_pod.sh --setup) and give the path with --gin.DATA_DIR=PATH",
            )
        return Path(os.path.expanduser(data_dir))
    if spec.name == "digits" and source_class is None:
        return Path(os.devnull)  # they have no path
    if not spec.default_dirs or source_class is not None:
        raise InputError(
            f"data set {spec.name!r} has no default path",
            _expected(spec),
            "give its path with --gin.DATA_DIR=PATH",
        )
    paths = [Path(path) for path in spec.default_dirs]
    existing = [path for path in paths if path.exists()]
    for path in existing:
        if is_prepared(path) or find_source(path, spec.name) is not None:
            return path
    return existing[0] if existing else paths[0]


def _source(
    spec: DatasetSpec, path: Path, data_dir: str | None, source_class: str | None
) -> tuple[Source, Path]:
    """The source that reads the data, and the path that it reads."""
    if source_class is not None:
        return own_source(source_class), path
    if spec.name == "digits" and data_dir is None:
        return Digits(), path
    if not path.exists():
        raise InputError(f"data set {spec.name!r} not found at {path}", _expected(spec), _FIX)
    # The names of published data sets say which of them is meant; "folder" and "npz" do not.
    found = find_source(path, spec.name if spec.num_classes is not None else None)
    if found is None:
        raise InputError(
            f"no data of a known form for {spec.name!r} at {path}", _expected(spec), _FIX
        )
    return found
