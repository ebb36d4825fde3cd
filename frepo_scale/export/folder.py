"""The distilled set as a folder of viewable images with its labels and float pixels.

Legend: N distilled images, H W height and width, C channels (1 or 3), K classes.
"""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_folder
from frepo_scale.export.formats import Export, description, to_arrays
from frepo_scale.export.preprocessing import pixel_losses

LABELS = "labels.csv"
DATASET = "dataset.json"
PIXELS = "pixels.npz"  # the images before rounding and clipping
_FILES = (
    f"{PIXELS} holds the same pixels as float32 without rounding and clipping; 0 to 1 is the range"
    " of pixels. Train on these, or on the .npz export, which holds the learned values as net"
    f" inputs. The rows of {LABELS} are in the order of both; its soft_<k> columns are the learned"
    " labels."
)


def write_folder(path: str | Path, export: Export) -> None:
    """Writes `<class>_<name>/NNNN.png`, `labels.csv`, `pixels.npz`, `dataset.json`: a new folder.

    Raises:
      InputError: `path` exists and is not an empty folder, cannot be written, or an array of the
        export has a wrong shape, type or value.
      ValueError, TypeError: JSON cannot hold the evaluation, the provenance or the results.
    """
    arrays, about = to_arrays(path, export), _description(export)
    with whole_folder(path) as folder:
        names = write_previews(folder, export)
        with open(folder / LABELS, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            soft = [f"soft_{k}" for k in range(len(export.class_names))]
            table.writerow(["file", "hard_label", *soft])
            rows = zip(names, arrays["hard_labels"], arrays["labels"], strict=True)
            for name, label, learned in rows:
                # str of a float32 is the shortest text that reads back as the same float32.
                table.writerow([name, label, *map(str, learned)])
        pixels = export.preprocessing.invert(export.images)
        np.savez(folder / PIXELS, pixels=pixels)
        (folder / DATASET).write_bytes(about)


def write_previews(folder: Path, export: Export) -> list[str]:
    """Writes each image as `<class>_<name>/NNNN.png` below `folder`; returns the names in order."""
    from PIL import Image

    classes = folder_names(export.class_names)
    counts = [0] * len(classes)
    names = []
    for pixels, label in zip(export.to_pixels(), export.hard_labels, strict=True):
        name = f"{classes[label]}/{counts[label]:04d}.png"
        counts[label] += 1
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / name)
        names.append(name)
    return names


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Different, portable folder names, which sort in the order of the classes."""
    digits = len(str(len(class_names) - 1))
    safe = (re.sub(r"[^\w-]+", "_", name)[:40].strip("_") for name in class_names)
    return [f"{k:0{digits}d}_{name}".rstrip("_") for k, name in enumerate(safe)]


def note(losses: dict[str, Any]) -> str:
    """What 8-bit images of a set are good for, as one paragraph.

    Args:
      losses: see `preprocessing.pixel_losses`.
    """
    clipped, error = 100 * losses["clipped_share"], 100 * losses["relative_error"]
    text = (
        "The PNG files show the images after undoing the normalisation (and the whitening), rounded"
        f" to 8 bits and clipped to the range of pixels. In this set {clipped:.2g} % of the values"
        " are clipped, and net inputs made from the PNG files differ from the learned ones by"
        f" {error:.2g} % (root mean square)."
    )
    if losses["preview_only"]:
        text += " Use them for viewing only: networks trained on them are less accurate."
    return text


def _description(export: Export) -> bytes:
    preprocessing = export.preprocessing
    n, height, width, channels = export.images.shape
    losses = pixel_losses(preprocessing, export.images)
    about = description(export) | {
        "note": f"{note(losses)} {_FILES}",
        "pixels": losses,
        "images": {"number": n, "height": height, "width": width, "channels": channels},
        "class_names": export.class_names,
        "normalisation": {
            "channel_mean": [float(str(v)) for v in preprocessing.channel_mean],
            "channel_std": [float(str(v)) for v in preprocessing.channel_std],
            "whitened": preprocessing.whitening is not None,
        },
    }
    # A class name may come from a file name that is not UTF-8; JSON escapes such characters.
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")
