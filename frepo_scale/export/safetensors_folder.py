"""The distilled set as a folder for a model hub: safetensors, JSON, previews and a card.

Legend: N distilled images, K classes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_folder
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import is_file, read_bytes
from frepo_scale.core.tensors import numpy_files
from frepo_scale.export.card import card
from frepo_scale.export.folder import write_previews
from frepo_scale.export.formats import (
    Export,
    check_arrays,
    checked_description,
    description,
    from_arrays,
    to_arrays,
)
from frepo_scale.export.gallery import save_gallery
from frepo_scale.export.preprocessing import pixel_losses
from frepo_scale.export.result_file import wrong_value

IMAGES = "images.safetensors"
WHITENING = "whitening.safetensors"
CONFIG = "config.json"
PREVIEWS = "previews"
GALLERY = "gallery.png"


def write_safetensors(path: str | Path, export: Export) -> None:
    """Writes a new folder.

    `images.safetensors` holds the images as net inputs, labels and channel statistics,
    `whitening.safetensors` the whitening of colour sets, `config.json` everything else,
    `previews/<class>/NNNN.png` viewable images, `README.md` a data set card with `gallery.png`.

    Raises:
      InputError: safetensors is not installed, `path` exists and is not an empty folder, cannot be
        written, or an array of the export has a wrong shape, type or value.
    """
    library = numpy_files()
    wrong = wrong_value(export.results)
    if wrong is not None:
        raise InputError(f"the results of the set: {wrong}", "as a run writes them")
    arrays = to_arrays(path, export)
    del arrays["class_names"]  # texts; in config.json
    whitening = {name: arrays.pop(name) for name in list(arrays) if name.startswith("whitening")}
    losses = pixel_losses(export.preprocessing, export.images)
    about = description(export) | {"class_names": export.class_names, "pixels": losses}
    with whole_folder(path) as folder:
        # Not `save_file`, whose files only their owner may read.
        metadata = {"format": about["format"]}
        (folder / IMAGES).write_bytes(library.save(arrays, metadata))
        if whitening:
            (folder / WHITENING).write_bytes(library.save(whitening, metadata))
        text = json.dumps(about, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (folder / CONFIG).write_text(text)
        (folder / PREVIEWS).mkdir()
        names = write_previews(folder / PREVIEWS, export)
        _write_metadata(folder / PREVIEWS / "metadata.jsonl", names, export)
        shown = export.present_names
        ipc = len(export.images) // len(shown)
        save_gallery(folder / GALLERY, export.to_pixels(), shown, ipc)
        (folder / "README.md").write_text(card(export, losses), encoding="utf-8")


def _write_metadata(path: Path, names: list[str], export: Export) -> None:
    """The table that `datasets.load_dataset("imagefolder", ...)` reads beside the images."""
    with open(path, "w", encoding="utf-8") as file:
        for name, label, learned in zip(names, export.hard_labels, export.labels, strict=True):
            row = {
                "file_name": name,
                "label": int(label),
                "class_name": export.class_names[label],
                "soft_labels": [float(str(value)) for value in learned],
            }
            file.write(json.dumps(row) + "\n")


def read_safetensors(path: Path) -> Export:
    """Reads what `write_safetensors` wrote.

    Raises:
      InputError: safetensors is not installed, or a file is missing, damaged or inconsistent.
    """
    meta = read_config(path)
    library = numpy_files()
    arrays: dict[str, np.ndarray] = {}
    names = [IMAGES, WHITENING] if is_file(path / WHITENING) else [IMAGES]
    for name in names:
        try:
            arrays |= library.load(read_bytes(path / name))
        except FileNotFoundError as error:
            raise InputError(f"{path} has no {name}", "a folder that export wrote") from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path / name} cannot be read ({reason})", "a file") from error
        except Exception as error:  # of the library, for a damaged file
            raise InputError(
                f"{path / name} is damaged ({error})", "a safetensors file", "copy it again"
            ) from error
    classes = meta.get("class_names")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path / CONFIG}: class_names is {classes!r}", "a list of names")
    arrays["class_names"] = np.array(classes, np.str_)
    needed = ["images", "labels", "hard_labels", "channel_mean", "channel_std"]
    pair = ["whitening_mean", "whitening_upper"]
    needed += pair if arrays.keys() & set(pair) else []
    for name in needed:
        if name not in arrays:
            raise InputError(f"{path}: no array {name}", "the arrays that export wrote")
    check_arrays(path, arrays)
    return from_arrays(arrays, meta)


def read_config(path: Path) -> dict[str, Any]:
    """The content of `config.json` in a folder.

    Raises:
      InputError: it is missing, damaged or of another kind.
    """
    file = path / CONFIG
    try:
        meta = json.loads(read_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error})", "JSON as export wrote it") from error
    return checked_description(str(file), meta)
