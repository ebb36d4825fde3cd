"""Reads labelled images from folders: those of `export --format folder`, and class folders.

Legend: n images, H W height and width, C channels, K classes.
"""

import csv
import json
import re
from pathlib import Path

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import read_bytes
from frepo_scale.data.decode import (
    Decoded,
    UnreadableImage,
    decode_image,
    deep_note,
    is_image,
)
from frepo_scale.export.folder import DATASET, LABELS, PIXELS, folder_names
from frepo_scale.export.formats import Export, check_arrays, checked_description, from_arrays
from frepo_scale.export.npz_files import read_arrays
from frepo_scale.export.raw_set import FORMS, RawSet


def read_folder(path: Path) -> Export:
    """The set of a folder that `export --format folder` wrote, with pixels in place of net inputs.

    Raises:
      InputError: a file is missing, damaged or inconsistent.
    """
    file = path / DATASET
    try:
        meta = json.loads(read_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error})", "JSON as export wrote it") from error
    meta = checked_description(str(file), meta)
    names = meta.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file}: class_names is {names!r}", "a list of names")
    raw = exported_folder(path)
    assert raw.labels is not None and raw.hard is not None
    unit = np.ones(raw.images.shape[-1:], np.float32)
    arrays = {
        "images": raw.images,
        "labels": raw.labels,
        "hard_labels": raw.hard.astype(np.int32),
        "class_names": np.array(names, np.str_),
        "channel_mean": 0 * unit,
        "channel_std": unit,
    }
    check_arrays(path, arrays)
    return from_arrays(arrays, meta)


def exported_folder(path: Path) -> RawSet:
    """A folder that `export --format folder` wrote: unclipped pixels and learned labels."""
    arrays = read_arrays(path / PIXELS, ("pixels",), lambda headers: None, "an array pixels")
    if "pixels" not in arrays:
        raise InputError(f"{path / PIXELS}: no array pixels", "float pixels")
    try:
        with open(path / LABELS, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        labels = np.array([[float(value) for value in row[2:]] for row in rows], np.float32)
        hard = np.array([int(row[1]) for row in rows])
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise InputError(
            f"{path / LABELS} cannot be read ({error})", "as export wrote it", "export it again"
        ) from error
    note = f"pixels and labels of {path}"
    return RawSet(arrays["pixels"], labels, note, unit=True, hard=hard)


def class_folders(path: Path, class_names: tuple[str, ...], channels: int) -> RawSet:
    """Image files as the sources of data sets read them: upright, 8 bits, grey or RGB.

    Args:
      path: has one folder for each class, whose files are taken in the order of their names.
      class_names: K names.
      channels: 1 or 3, of the images.

    Raises:
      InputError: a folder is of no class, a file cannot be read, or images differ in size.
    """
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    classes = _classes_of(path, [p.name for p in folders], class_names)
    images: list[Decoded] = []
    labels: list[int] = []
    for folder, label in zip(folders, classes, strict=True):
        for file in sorted(p for p in folder.iterdir() if is_image(str(p))):
            images.append(_decoded(file, channels, images))
            labels.append(label)
    if not images:
        raise InputError(f"{path} has no images", FORMS)
    note = f"{len(images)} image files in {len(folders)} class folders of {path}"
    grey = sum(image.grey for image in images)
    if channels == 3 and grey:
        note += f", {grey} of them grey"
    if channels == 1 and grey < len(images):
        note += f", {len(images) - grey} of them in colour and made grey"
    for deep in deep_note(max(image.deep for image in images)):
        note += f", {deep}"
    hard = np.array(labels)
    return RawSet(np.stack([i.pixels for i in images]), hard, note, hard=hard)


def _decoded(file: Path, channels: int, others: list[Decoded]) -> Decoded:
    """One image file, in its own size, which must be that of the others."""
    try:
        # The bytes decide which decoder is used, never one that starts another program.
        image = decode_image(file.read_bytes(), file.name, channels, None, "crop")
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror or error})", "an image"
        ) from error
    except UnreadableImage as error:
        raise InputError(f"{file} cannot be read ({error.reason})", "an image") from error
    if others and image.pixels.shape != others[0].pixels.shape:
        raise InputError(
            f"{file} has {image.width}x{image.height} pixels",
            f"the size of the others, {others[0].width}x{others[0].height}",
        )
    return image


def _classes_of(path: Path, names: list[str], class_names: tuple[str, ...]) -> list[int]:
    """The class of each folder: by its name, the name that our exports give it, or its number."""
    tables = (
        {name: k for k, name in enumerate(class_names)},
        {name: k for k, name in enumerate(folder_names(class_names))},
        {str(k): k for k in range(len(class_names))},
    )
    for table in tables:
        if names and all(name in table for name in names):
            return [table[name] for name in names]
    numbers = [re.match(r"0*(\d+)$", name) for name in names]
    if names and all(numbers):
        found = [int(number[1]) for number in numbers if number]
        if max(found) < len(class_names) and len(set(found)) == len(found):
            return found
    known = [name for name in names if any(name in table for table in tables)]
    odd = next((name for name in names if name not in known), names[0] if names else None)
    raise InputError(
        f"{path}: " + (f"class folder {odd!r}" if names else "no class folders"),
        f"folders with the names of the {len(class_names)} classes, such as {class_names[0]!r},"
        f" or with their numbers 0 to {len(class_names) - 1}",
    )
