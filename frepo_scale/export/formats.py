"""The distilled set as one self-contained .npz file.

Legend: N distilled images, H W height and width, C channels (1 or 3), K classes, D = H*W*C, E the
side of the whitening matrix (`data.whitening`), D up to 64 px.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing, whitened_size
from frepo_scale.export.npz_files import Header, read_arrays
from frepo_scale.export.preprocessing import describe_preprocessing

FORMAT = "frepo_scale-distilled-2"
# Earlier versions, which are still read. 1 had the whole whitening matrix and its inverse.
_OLD_FORMATS = ("frepo_scale-distilled-1",)

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
_WHITENING = ("whitening_mean", "whitening_upper")
_OLD_WHITENING = ("whitening_mean", "whitening_matrix", "whitening_inverse")
_AGAIN = "export the set again, or copy the file again"
_LONGEST_META = 2**24  # characters


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
      results: the measured accuracies by name, each {"mean", "std", "n"}; empty before the
        evaluation of a run. "evaluated" has the "evaluations" of `frepo-scale evaluate` with their
        "protocol", where a run was judged again before it was exported. JSON values.
    """

    images: np.ndarray
    labels: np.ndarray
    hard_labels: np.ndarray
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    evaluation: dict[str, Any]
    provenance: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def present_names(self) -> tuple[str, ...]:
        """Names of the classes that have images, in order: all but with `CLASSES`."""
        return tuple(self.class_names[label] for label in np.unique(self.hard_labels))

    def to_pixels(self) -> np.ndarray:
        """The images as viewable (N, H, W, C) uint8 pixels, clipped and rounded."""
        return self.preprocessing.to_pixels(self.images)


def write_npz(path: str | Path, export: Export) -> None:
    """Writes one uncompressed .npz; equal exports give equal bytes.

    Uncompressed because learned images and whitening matrices are close to noise: zlib saves 7 %.
    An existing file is replaced.

    Raises:
      InputError: an array of the export has a wrong shape, type or value, or `path` cannot be
        written.
      ValueError, TypeError: JSON cannot hold the evaluation, the provenance or the results.
    """
    arrays = to_arrays(path, export)
    arrays["meta"] = np.array(json.dumps(description(export), sort_keys=True, allow_nan=False))
    with whole_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # taken for a keyword of numpy


def description(export: Export) -> dict[str, Any]:
    """Everything about an export but its arrays, as JSON values."""
    return {
        "format": FORMAT,
        "preprocessing": describe_preprocessing(export.preprocessing),
        "evaluation": export.evaluation,
        "results": export.results,
        "provenance": export.provenance,
    }


def to_arrays(path: str | Path, export: Export) -> dict[str, np.ndarray]:
    """The arrays of an export by the names that files give them; checked.

    Args:
      path: the file that will hold them, for error messages.
      export: the set.

    Raises:
      InputError: an array has a wrong shape, type or value.
    """

    # C order, so that the bytes depend on the values only.
    def c_ordered(array: np.ndarray, dtype: type) -> np.ndarray:
        return np.ascontiguousarray(array, dtype)

    arrays = {
        "images": c_ordered(export.images, np.float32),
        "labels": c_ordered(export.labels, np.float32),
        "hard_labels": c_ordered(export.hard_labels, np.int32),
        "class_names": np.array(export.class_names, np.str_),
        "channel_mean": c_ordered(export.preprocessing.channel_mean, np.float32),
        "channel_std": c_ordered(export.preprocessing.channel_std, np.float32),
    }
    whitening = export.preprocessing.whitening
    if whitening is not None:
        arrays["whitening_mean"] = c_ordered(whitening.mean, np.float32)
        arrays["whitening_upper"] = upper_triangle(c_ordered(whitening.matrix, np.float32))
    check_arrays(path, arrays)
    # Once the images are known to be finite.
    return arrays | {"images_uint8": export.to_pixels()}


def upper_triangle(matrix: np.ndarray) -> np.ndarray:
    """The rows `matrix[i, i:]` of a symmetric (E, E) matrix one after the other: (E(E+1)/2,)."""
    return np.concatenate([matrix[i, i:] for i in range(len(matrix))])


def symmetric_matrix(upper: np.ndarray) -> np.ndarray:
    """The inverse of `upper_triangle`."""
    side = (math.isqrt(8 * len(upper) + 1) - 1) // 2
    matrix = np.empty((side, side), upper.dtype)
    first = 0
    for i in range(side):
        matrix[i, i:] = matrix[i:, i] = upper[first : first + side - i]
        first += side - i
    return matrix


def read_npz(path: str | Path) -> Export:
    """Reads what `write_npz` wrote, now or in an earlier version.

    Raises:
      InputError: the file is missing, damaged, of another kind or version, or inconsistent.
    """

    def check(headers: Mapping[str, Header]) -> None:
        found = headers.get("meta")
        if found is None or found.shape != () or found.dtype.kind != "U":
            raise InputError(f"{path}: no array meta with a JSON text", f"an export ({FORMAT})")
        if found.dtype.itemsize > 4 * _LONGEST_META:
            raise InputError(
                f"{path}: array meta has {found.dtype.itemsize // 4:,} characters",
                f"at most {_LONGEST_META:,}",
            )
        if headers.keys() == {"meta"}:  # of another kind or version, which `_read_meta` says
            return
        missing = [name for name in _PLAIN if name not in headers]
        for names in (_WHITENING, _OLD_WHITENING):
            if any(name in headers for name in names[1:]):
                missing += [name for name in names if name not in headers]
        if "whitening_mean" in headers and not headers.keys() & {_WHITENING[1], _OLD_WHITENING[1]}:
            missing.append(_WHITENING[1])
        if missing:
            raise InputError(f"{path}: no array {missing[0]}", f"the arrays of {FORMAT}", _AGAIN)
        _check_shapes(path, headers)

    wanted = {*_PLAIN, *_WHITENING, *_OLD_WHITENING}
    arrays = read_arrays(path, wanted, check, f"an export ({FORMAT})", _AGAIN)
    meta = _read_meta(path, arrays)
    _check_values(path, arrays)
    return from_arrays(arrays, meta)


def from_arrays(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Export:
    """The export of checked arrays and their `description`."""
    known = dict(arrays)
    if "whitening_upper" in known:
        known["whitening_matrix"] = symmetric_matrix(known["whitening_upper"])
    return Export(
        images=known["images"],
        labels=known["labels"],
        hard_labels=known["hard_labels"],
        class_names=tuple(known["class_names"].tolist()),
        preprocessing=Preprocessing.from_arrays(known),
        evaluation=meta["evaluation"],
        provenance=meta["provenance"],
        results=meta.get("results", {}),
    )


def _read_meta(path: str | Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    try:
        meta = json.loads(arrays["meta"].item())
    except (ValueError, RecursionError) as error:
        expected = f"an export ({FORMAT})"
        raise InputError(f"{path}: array meta is not JSON ({error})", expected) from error
    return checked_description(f"{path}: array meta", meta)


def checked_description(where: str, meta: Any) -> dict[str, Any]:
    """A description as it was read from JSON.

    Args:
      where: the file, for error messages.
      meta: what was read.

    Raises:
      InputError: it is of another kind or version, or a part is missing.
    """
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != FORMAT and found not in _OLD_FORMATS:
        raise InputError(f"{where} says format {found!r}", repr(FORMAT))
    for part in ("evaluation", "provenance", *(["results"] if found == FORMAT else [])):
        if not isinstance(meta.get(part), dict):
            raise InputError(f"{where} has no {part}", "a JSON object", _AGAIN)
    checked: dict[str, Any] = meta
    return checked


def check_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for the first array that a reader could not use.

    Args:
      path: the file that holds them, for error messages.
      arrays: by the names that `to_arrays` gives them; all but those of the whitening are needed.
    """
    _check_shapes(path, {name: Header(a.shape, a.dtype) for name, a in arrays.items()})
    _check_values(path, arrays)


def _check_shapes(path: str | Path, arrays: Mapping[str, Header]) -> None:
    """Raises InputError for the first array of a shape or type that a reader could not use."""
    images, names = arrays["images"], arrays["class_names"]
    if len(images.shape) != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        raise InputError(f"{path}: array images is {images.shape}", "(N, H, W, 1 or 3)")
    if len(names.shape) != 1 or names.shape[0] == 0 or names.dtype.kind != "U":
        raise InputError(f"{path}: array class_names is {names.shape} {names.dtype}", "K names")
    (n, *_, c), k, d = images.shape, names.shape[0], math.prod(images.shape[1:])
    float32, uint8, int32 = map(np.dtype, (np.float32, np.uint8, np.int32))
    try:
        e = whitened_size((*images.shape[1:3], c)) if "whitening_mean" in arrays else 0
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
        "whitening_upper": ((e * (e + 1) // 2,), float32),
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


def _check_values(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for the first array of the right shape with a value out of range."""
    for name, array in arrays.items():
        if array.dtype == np.float32 and not np.isfinite(array).all():
            raise InputError(f"{path}: array {name} has NaN or infinite values", "finite values")
    hard, k = arrays["hard_labels"], len(arrays["class_names"])
    if hard.min() < 0 or hard.max() >= k:
        raise InputError(
            f"{path}: array hard_labels has {hard.min()} to {hard.max()}", f"0 to {k - 1}"
        )
    if arrays["channel_std"].min() <= 0:
        raise InputError(f"{path}: array channel_std has values <= 0", "positive values")
