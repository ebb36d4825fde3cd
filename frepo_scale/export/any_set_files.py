"""Reads labelled images from the files of other programs, without running anything in them.

Legend: n images, H W height and width, C channels, K classes.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.core.extras import not_installed
from frepo_scale.core.paths import is_file, is_folder, is_local
from frepo_scale.export.any_set_folders import class_folders, exported_folder
from frepo_scale.export.folder import DATASET, PIXELS
from frepo_scale.export.npz_files import Header, check_size, read_arrays
from frepo_scale.export.raw_set import FORMS, RawSet

_TORCH_FILES = (".pt", ".pth")
_LARGE = 2**28  # bytes of a tensor that may be expanded


def read_raw(
    path: Path, labels: Path | None, class_names: tuple[str, ...], channels: int
) -> RawSet:
    """The images and labels in a file or folder.

    Args:
      path: see `FORMS`, or a folder that `export --format folder` wrote.
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
        given = _labels_file(labels)
        if is_folder(path):
            _check_order(labels, given, raw.hard)
        raw = replace(raw, labels=given, note=f"{raw.note}, labels of {labels}")
    if raw.labels is None:
        raise InputError(f"{path} has no labels", "labels of the images", "give --labels FILE")
    return raw


def _check_order(file: Path, labels: np.ndarray, hard: np.ndarray | None) -> None:
    """Raises InputError for labels (n,) or (n, K) that are not in the order of image files.

    Args:
      file: that holds the labels.
      labels: as read.
      hard: (n,) the class of each image by its folder.
    """
    if hard is None or labels.shape[:1] != hard.shape or labels.ndim > 2 or not labels.size:
        return  # a wrong shape is another error
    whole = labels.ndim == 1 or labels.shape[1] == 1
    found = labels.reshape(-1) if whole else labels.argmax(axis=1)
    other = int(np.sum(found != hard))
    # Of learned labels the largest need not be that of the class.
    if other > (0 if whole else len(hard) // 2):
        raise InputError(
            f"{file}: {other} of {len(hard)} labels are of another class than the folder",
            "labels in the order of the folders and of the files in each, sorted by name",
        )


def _read(path: Path, class_names: tuple[str, ...], channels: int) -> RawSet:
    if is_folder(path):
        if is_file(path / DATASET) and is_file(path / PIXELS):
            return exported_folder(path)
        return class_folders(path, class_names, channels)
    if not is_file(path):
        raise InputError(f"{path}: no such file or folder", FORMS)
    if path.suffix in _TORCH_FILES:
        return _torch_file(path)
    if path.suffix == ".npz":
        names = ("images", "labels", "hard_labels")
        arrays = read_arrays(path, names, _images_first(path), "images and labels")
        note, hard = f"arrays of {path}", arrays.get("hard_labels")
        return RawSet(arrays["images"], arrays.get("labels"), note, hard=hard)
    raise InputError(f"{path} is of no known form", FORMS)


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
