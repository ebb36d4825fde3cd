"""The distilled set on disk: one self-contained .npz, or a folder of viewable images.

Legend: N distilled images, H W height and width, C channels (1 or 3), K classes, D = H*W*C.
"""

import csv
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_file, whole_folder
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import open_to_read
from frepo_scale.data.whitening import Preprocessing, whitened_size

FORMAT = "frepo_scale-distilled-1"

_PLAIN = (
    "meta",
    "images",
    "labels",
    "images_uint8",
    "hard_labels",
    "class_names",
    "channel_mean",
    "channel_std",
)
_WHITENING = ("whitening_mean", "whitening_matrix", "whitening_inverse")
_AGAIN = "export the set again, or copy the file again"
_NOTE = (
    "The PNG files show the images after undoing the normalisation (and the whitening), rounded "
    "to 8 bits and clipped to the range of pixels. Training on them is less accurate than on "
    "the .npz export, which holds the learned values. The rows of labels.csv are in the "
    "order of that export; its soft_<k> columns are the learned labels."
)


@dataclass(frozen=True)
class Export:
    """A distilled set with everything needed to train on it elsewhere.

    Attributes:
      images: (N, H, W, C) float32, as the net sees them: normalised and whitened.
      labels: (N, K) float32, the learned soft labels.
      hard_labels: (N,) int32 in [0, K), the class each image started from.
      class_names: K names, index = class.
      preprocessing: from pixels to `images` and back.
      evaluation: the recipe that gives the reported accuracy (net, steps, batch, ...); JSON
        values.
      provenance: where the set comes from (data set, step, seed, versions, ...); JSON values.
    """

    images: np.ndarray
    labels: np.ndarray
    hard_labels: np.ndarray
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    evaluation: dict[str, Any]
    provenance: dict[str, Any]

    def to_pixels(self) -> np.ndarray:
        """The images as viewable (N, H, W, C) uint8 pixels, clipped and rounded."""
        return self.preprocessing.to_pixels(self.images)


def write_npz(path: str | Path, export: Export) -> None:
    """Writes one uncompressed .npz; equal exports give equal bytes.

    Uncompressed because learned images are close to noise. An existing file is replaced.

    Raises:
      InputError: an array of the export has a wrong shape, type or value, or `path` cannot be
        written.
      ValueError, TypeError: JSON cannot hold the evaluation or the provenance.
    """
    arrays = _to_arrays(export)
    _check(path, arrays)
    arrays["images_uint8"] = export.to_pixels()
    with whole_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # taken for a keyword of numpy


def read_npz(path: str | Path) -> Export:
    """Reads what `write_npz` wrote.

    Raises:
      InputError: the file is missing, damaged, of another kind or version, or inconsistent.
    """
    arrays = _load(path)
    meta = _read_meta(path, arrays)
    missing = [name for name in _PLAIN if name not in arrays]
    if any(name in arrays for name in _WHITENING):
        missing += [name for name in _WHITENING if name not in arrays]
    if missing:
        raise InputError(f"{path}: no array {missing[0]}", f"the arrays of {FORMAT}", _AGAIN)
    _check(path, arrays)
    return Export(
        images=arrays["images"],
        labels=arrays["labels"],
        hard_labels=arrays["hard_labels"],
        class_names=tuple(arrays["class_names"].tolist()),
        preprocessing=Preprocessing.from_arrays(arrays),
        evaluation=meta["evaluation"],
        provenance=meta["provenance"],
    )


def write_folder(path: str | Path, export: Export) -> None:
    """Writes `<class>_<name>/NNNN.png`, `labels.csv` and `dataset.json` under a new folder.

    Raises:
      InputError: `path` exists and is not an empty folder, cannot be written, or an array of the
        export has a wrong shape, type or value.
      ValueError, TypeError: JSON cannot hold the evaluation or the provenance.
    """
    from PIL import Image

    arrays = _to_arrays(export)
    _check(path, arrays)
    classes = _folder_names(export.class_names)
    counts = [0] * len(classes)
    with whole_folder(path) as folder:
        with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            soft = [f"soft_{k}" for k in range(len(classes))]
            table.writerow(["file", "hard_label", *soft])
            rows = zip(export.to_pixels(), arrays["hard_labels"], arrays["labels"], strict=True)
            for pixels, label, learned in rows:
                name = f"{classes[label]}/{counts[label]:04d}.png"
                counts[label] += 1
                (folder / name).parent.mkdir(exist_ok=True)
                Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
                    folder / name
                )
                # str of a float32 is the shortest text that reads back as the same float32.
                table.writerow([name, label, *map(str, learned)])
        (folder / "dataset.json").write_bytes(_description(export))


def _to_arrays(export: Export) -> dict[str, np.ndarray]:
    # Without images_uint8, which is made once the images are known to be finite.
    # C order, so that the bytes depend on the values only.
    def c_ordered(array: np.ndarray, dtype: type) -> np.ndarray:
        return np.ascontiguousarray(array, dtype)

    meta = {"format": FORMAT, "evaluation": export.evaluation, "provenance": export.provenance}
    arrays = {
        "meta": np.array(json.dumps(meta, sort_keys=True, allow_nan=False)),
        "images": c_ordered(export.images, np.float32),
        "labels": c_ordered(export.labels, np.float32),
        "hard_labels": c_ordered(export.hard_labels, np.int32),
        "class_names": np.array(export.class_names, np.str_),
    }
    return arrays | {n: c_ordered(a, np.float32) for n, a in export.preprocessing.arrays().items()}


def _load(path: str | Path) -> dict[str, np.ndarray]:
    # A damaged archive fails in many ways (zip structure, checksum, array header, compression
    # method, ...); all of them are one error for the user.
    try:
        with open_to_read(path) as file:
            # Checksums of all members first, so that no unchecked array header is read.
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
            file.seek(0)
            with np.load(file, allow_pickle=False) as npz:
                return {name: npz[name] for name in npz.files if name in _PLAIN + _WHITENING}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", f"an export ({FORMAT})") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason})", "a readable .npz file") from error
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: damaged or not an .npz file ({error})", f"an export ({FORMAT})", _AGAIN
        ) from error


def _read_meta(path: str | Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    expected = f"an export ({FORMAT})"
    stored = arrays.get("meta")
    if stored is None or stored.shape != () or stored.dtype.kind != "U":
        raise InputError(f"{path}: no array meta with a JSON text", expected)
    try:
        meta = json.loads(stored.item())
    except ValueError as error:
        raise InputError(f"{path}: array meta is not JSON ({error})", expected) from error
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: array meta says format {found!r}", repr(FORMAT))
    for part in ("evaluation", "provenance"):
        if not isinstance(meta.get(part), dict):
            raise InputError(f"{path}: array meta has no {part}", "a JSON object", _AGAIN)
    return meta


def _check(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises InputError for the first array that a reader could not use."""
    images, names = arrays["images"], arrays["class_names"]
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        raise InputError(f"{path}: array images is {images.shape}", "(N, H, W, 1 or 3)")
    if names.ndim != 1 or len(names) == 0 or names.dtype.kind != "U":
        raise InputError(f"{path}: array class_names is {names.shape} {names.dtype}", "K names")
    (n, *_, c), k, d = images.shape, len(names), int(np.prod(images.shape[1:]))
    float32, uint8, int32 = map(np.dtype, (np.float32, np.uint8, np.int32))
    try:
        e = whitened_size(images.shape[1:]) if "whitening_matrix" in arrays else 0
    except InputError as error:
        raise InputError(f"{path}: {error.what}", error.expected, _AGAIN) from error
    wanted = {
        "images": (images.shape, float32),
        "labels": ((n, k), float32),
        "images_uint8": (images.shape, uint8),
        "hard_labels": ((n,), int32),
        "channel_mean": ((c,), float32),
        "channel_std": ((c,), float32),
        "whitening_mean": ((d,), float32),
        "whitening_matrix": ((e, e), float32),
        "whitening_inverse": ((e, e), float32),
    }
    for name, (shape, dtype) in wanted.items():
        if name not in arrays:  # no whitening in a grey set, images_uint8 not made yet
            continue
        array = arrays[name]
        if array.shape != shape or array.dtype != dtype:
            raise InputError(
                f"{path}: array {name} is {array.shape} {array.dtype}", f"{shape} {dtype}"
            )
        if dtype == float32 and not np.isfinite(array).all():
            raise InputError(f"{path}: array {name} has NaN or infinite values", "finite values")
    hard = arrays["hard_labels"]
    if hard.min() < 0 or hard.max() >= k:
        raise InputError(
            f"{path}: array hard_labels has {hard.min()} to {hard.max()}", f"0 to {k - 1}"
        )
    if arrays["channel_std"].min() <= 0:
        raise InputError(f"{path}: array channel_std has values <= 0", "positive values")


def _folder_names(class_names: tuple[str, ...]) -> list[str]:
    # With the index, names stay different and sorted folders are in class order.
    digits = len(str(len(class_names) - 1))
    safe = (re.sub(r"[^\w-]+", "_", name)[:40].strip("_") for name in class_names)
    return [f"{k:0{digits}d}_{name}".rstrip("_") for k, name in enumerate(safe)]


def _description(export: Export) -> bytes:
    preprocessing = export.preprocessing
    n, height, width, channels = export.images.shape
    text = json.dumps(
        {
            "format": FORMAT,
            "note": _NOTE,
            "images": {"number": n, "height": height, "width": width, "channels": channels},
            "class_names": export.class_names,
            "normalisation": {
                "order": "pixels / 255, minus channel_mean, divided by channel_std"
                + (", then whitened (see the .npz export)" if preprocessing.whitening else ""),
                "channel_mean": [float(str(v)) for v in preprocessing.channel_mean],
                "channel_std": [float(str(v)) for v in preprocessing.channel_std],
                "whitened": preprocessing.whitening is not None,
            },
            "evaluation": export.evaluation,
            "provenance": export.provenance,
        },
        indent=2,
        ensure_ascii=False,
    )
    # A class name may come from a file name that is not UTF-8; JSON escapes such characters.
    return (text + "\n").encode("utf-8", "backslashreplace")
