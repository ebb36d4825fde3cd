"""What kind of source a path is."""

import re
from collections.abc import Callable
from pathlib import Path

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import damage
from frepo_scale.data.folder import has_train
from frepo_scale.data.prepare.arrays import list_arrays
from frepo_scale.data.prepare.examples import list_examples
from frepo_scale.data.prepare.folders import list_folders
from frepo_scale.data.prepare.ilsvrc import TRAIN, list_ilsvrc
from frepo_scale.data.prepare.listing import Listing
from frepo_scale.data.tfrecord import find_build

FORMS = (
    f"a folder with {TRAIN}; train/<class>/<image> in a folder or a .tar[.gz]; "
    "TFRecords (a folder of a tensorflow-datasets build or train-00000-of-...); or an .npz"
)
_TARS = (".tar", ".tar.gz", ".tgz")


def list_source(place: Path, check: Callable[[], None] = lambda: None) -> Listing:
    """All images of a source, whatever its form.

    Args:
      place: what `--source` named.
      check: called all along; may raise to stop.

    Raises:
      InputError: nothing there, no known form, damaged, labels out of range, an empty class.
    """
    listing = _find(place, check)
    listing.check(str(place))
    return listing


def _find(place: Path, check: Callable[[], None]) -> Listing:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise InputError(f"source {place} is a URL", "a local path", "fetch it first")
    if place.is_file():
        if place.name == TRAIN:
            return list_ilsvrc(place.parent, check)
        if place.name.endswith(".npz"):
            return list_arrays(place)
        if place.name.endswith(_TARS):
            return list_folders(place, check)
    elif place.is_dir():
        if (place / TRAIN).is_file():
            return list_ilsvrc(place, check)
        found = find_build(place)
        if found is not None:
            return list_examples(*found, check)
        if has_train(place):
            return list_folders(place, check)
        with damage(place):
            files = sorted(path for path in place.iterdir() if path.is_file())
        archives = [p for p in files if p.name.endswith((*_TARS, ".npz")) and p.name[0] != "."]
        if len(archives) == 1:
            return _find(archives[0], check)
        if archives:
            raise InputError(
                f"{place} holds several archives: {', '.join(path.name for path in archives)}",
                "one data set",
                f"name one with --source {archives[0]}",
            )
    elif not place.exists():
        raise InputError(f"source {place} does not exist", FORMS, "check --source")
    raise InputError(f"source {place} has no known form", FORMS, "check --source")
