"""Reads labelled images from the files of other programs, without running anything in them.

Legend: n images, H W height and width, C channels, K classes.
"""

import csv
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.extras import not_installed
from frepo_scale.core.paths import is_file, is_folder, is_local, read_bytes
from frepo_scale.data.decode import (
    Decoded,
    UnreadableImage,
    decode_image,
    deep_note,
    is_image,
)
from frepo_scale.export.folder import DATASET, LABELS, PIXELS, folder_names
from frepo_scale.export.formats import Export, check_arrays, checked_description, from_arrays
from frepo_scale.export.npz_files import Header, check_size, read_arrays

_TORCH_FILES = (".pt", ".pth")
_LARGE = 2**28  # bytes of a tensor that may be expanded
_FORMS = "a folder of class folders of images, an .npz with images and labels, or a .pt of PyTorch"


@dataclass(frozen=True)
class RawSet:
    """Labelled images as a file holds them.

    Attributes:
      images: n images in any layout and range.
      labels: (n,) integers or (n, K) numbers; None: the file has none.
      note: what was read, for the user.
      unit: whether 0 to 1 is known to be the range of pixels.
      hard: (n,) integers, the class of each image where labels are soft; None: the largest label.
    """

    images: np.ndarray
    labels: np.ndarray | None
    note: str
    unit: bool = False
    hard: np.ndarray | None = None


def read_raw(
    path: Path, labels: Path | None, class_names: tuple[str, ...], channels: int
) -> RawSet:
    """The images and labels in a file or folder.

    Args:
      path: see `_FORMS`, or a folder that `export --format folder` wrote.
      labels: a further file with the labels: .npy, .npz with an array `labels`, or .pt; None: they
        are in `path`.
      class_names: K names, for class folders.
      channels: 1 or 3, of the images of class folders.

    Raises:
      InputError: nothing can be read there, or there are no labels.
    """
    if not is_local(path):
        raise InputError(f"{path} is no local path", "a local path", "copy the set first")
    raw = _read(path, class_names, channels)
    if labels is not None:
        raw = replace(raw, labels=_labels_file(labels), note=f"{raw.note}, labels of {labels}")
    if raw.labels is None:
        raise InputError(f"{path} has no labels", "labels of the images", "give --labels FILE")
    return raw


def _read(path: Path, class_names: tuple[str, ...], channels: int) -> RawSet:
    if is_folder(path):
        if is_file(path / DATASET) and is_file(path / PIXELS):
            return _exported_folder(path)
        return _class_folders(path, class_names, channels)
    if not is_file(path):
        raise InputError(f"{path}: no such file or folder", _FORMS)
    if path.suffix in _TORCH_FILES:
        return _torch_file(path)
    if path.suffix == ".npz":
        names = ("images", "labels", "hard_labels")
        arrays = read_arrays(path, names, _images_first(path), "images and labels")
        note, hard = f"arrays of {path}", arrays.get("hard_labels")
        return RawSet(arrays["images"], arrays.get("labels"), note, hard=hard)
    raise InputError(f"{path} is of no known form", _FORMS)


def _images_first(path: Path) -> Any:
    def check(headers: Mapping[str, Header]) -> None:
        if "images" not in headers:
            raise InputError(
                f"{path}: no array images",
                "arrays images and labels",
                "give them these names: numpy.savez(FILE, images=..., labels=...)",
            )
        if "labels" in headers and headers["labels"].shape[:1] != headers["images"].shape[:1]:
            raise InputError(
                f"{path}: images {headers['images'].shape}, labels {headers['labels'].shape}",
                "one label for each image",
            )

    return check


def _labels_file(path: Path) -> np.ndarray:
    if path.suffix in _TORCH_FILES:
        content = _load_torch(path)
        found = _entry(path, content, "labels") if isinstance(content, dict) else content
        return _array(path, found, "labels")
    if path.suffix == ".npz":
        arrays = read_arrays(path, ("labels",), lambda headers: None, "an array labels")
        if "labels" not in arrays:
            raise InputError(f"{path}: no array labels", "an array labels")
        return arrays["labels"]
    try:
        # Mapped, so that a header which declares more than the file holds is an error.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("an archive of arrays")
        return np.array(mapped)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read ({error})", "labels in an .npy, .npz or .pt file"
        ) from error


# PyTorch ------------------------------------------------------------------------------------------


def _torch_file(path: Path) -> RawSet:
    content, note = _load_torch(path), f"tensors of {path}"
    if isinstance(content, dict) and isinstance(content.get("data"), list) and content["data"]:
        # As Dataset Condensation and its successors write them: one pair for each experiment.
        note += f", the first of {len(content['data'])} sets"
        content = content["data"][0]
    if isinstance(content, dict):
        images, labels = _entry(path, content, "images"), content.get("labels")
    elif isinstance(content, list | tuple) and len(content) == 2:
        images, labels = content
    else:
        images, labels = content, None
    found = None if labels is None else _array(path, labels, "labels")
    return RawSet(_array(path, images, "images"), found, note)


def _entry(path: Path, content: dict[Any, Any], name: str) -> Any:
    if name not in content:
        held = ", ".join(map(repr, list(content)[:5])) + (", ..." if len(content) > 5 else "")
        raise InputError(
            f"{path}: no entry {name!r}" + (f" beside {held[:200]}" if held else ""),
            "a tensor of images, [images, labels], or {'images': ..., 'labels': ...}",
            "save it again with torch.save({'images': images, 'labels': labels}, FILE)",
        )
    return content[name]


def _load_torch(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        what = f"{path} is a file of PyTorch, which is not installed"
        raise not_installed(what, "torch", ", or save the arrays with numpy.savez") from error
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                check_size(path, file, "tensors")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", "a file") from error
    except InputError:
        raise
    except Exception as error:  # of the unpickler, for anything but tensors and plain containers
        reason = str(error).strip().partition("\n")[0][:200]
        raise InputError(
            f"{path} cannot be read with weights_only=True ({reason})",
            "tensors, or a list, tuple or dict of them",
            "save it again with torch.save({'images': images, 'labels': labels}, FILE)",
        ) from error


def _array(path: Path, tensor: Any, name: str) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            f"{path}: {name} is {type(tensor).__name__}",
            "a tensor of images, [images, labels], or {'images': ..., 'labels': ...}",
        )
    try:
        stored, used = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        if used > max(stored, _LARGE):  # an expanded tensor repeats its values without storing them
            raise InputError(
                f"{path}: {name} has {used:,} bytes of which {stored:,} are stored",
                "a tensor of which all values are stored",
            )
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()  # numpy has no bfloat16
        return np.asarray(tensor.numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, meta, ...
        reason = str(error).strip().partition("\n")[0][:200]
        raise InputError(
            f"{path}: {name} has no plain values ({reason})", "a dense tensor"
        ) from error


# Folders ------------------------------------------------------------------------------------------


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
    raw = _exported_folder(path)
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


def _exported_folder(path: Path) -> RawSet:
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


def _class_folders(path: Path, class_names: tuple[str, ...], channels: int) -> RawSet:
    """Image files as the sources of data sets read them: upright, 8 bits, grey or RGB."""
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    classes = _classes_of(path, [p.name for p in folders], class_names)
    images: list[Decoded] = []
    labels: list[int] = []
    for folder, label in zip(folders, classes, strict=True):
        for file in sorted(p for p in folder.iterdir() if is_image(str(p))):
            images.append(_decoded(file, channels, images))
            labels.append(label)
    if not images:
        raise InputError(f"{path} has no images", _FORMS)
    note = f"{len(images)} image files in {len(folders)} class folders of {path}"
    grey = sum(image.grey for image in images)
    if channels == 3 and grey:
        note += f", {grey} of them grey"
    if channels == 1 and grey < len(images):
        note += f", {len(images) - grey} of them in colour and made grey"
    for deep in deep_note(max(image.deep for image in images)):
        note += f", {deep}"
    return RawSet(np.stack([i.pixels for i in images]), np.array(labels), note)


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
