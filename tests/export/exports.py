"""An export, and changes to its file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.export.formats import Export, upper_triangle, write_npz

STATISTICS = ("channel_mean", "channel_std")
WHITENING = ("whitening_mean", "whitening_upper")
ARRAYS = ("images", "labels", "hard_labels", *STATISTICS, *WHITENING)


def make(channels: int = 3, per_class: int = 2, size: int = 4) -> Export:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (200, size, size, channels), dtype=np.uint8)
    preprocessing = fit_preprocessing(real, whiten=channels == 3)
    names = ("cat", "dog/wolf", "ça va")
    n = len(names) * per_class
    labels = rng.normal(size=(n, len(names))).astype(np.float32)
    return Export(
        images=preprocessing.apply(real[:n]),
        labels=labels,
        hard_labels=np.repeat(np.arange(len(names), dtype=np.int32), per_class),
        class_names=names,
        preprocessing=preprocessing,
        evaluation={"net": "convnet", "steps": 1000, "learning_rate": 3e-4},
        provenance={"dataset": "made up", "step": 5, "versions": {"numpy": "2"}},
        results={"distilled": {"mean": 0.5, "std": 0.1, "n": 3}},
    )


def write_as_version_1(path: Path, export: Export) -> None:
    """As earlier versions wrote it: the whole matrix, its inverse, no results."""
    write_npz(path, export)
    with np.load(path) as npz:
        arrays = dict(npz)
    arrays.pop("whitening_upper", None)
    meta = {"format": "frepo_scale-distilled-1", "evaluation": export.evaluation}
    arrays["meta"] = np.array(json.dumps(meta | {"provenance": export.provenance}))
    np.savez(path, **arrays | export.preprocessing.arrays())


def arrays_of(export: Export) -> dict[str, np.ndarray]:
    arrays = {name: getattr(export, name) for name in ("images", "labels", "hard_labels")}
    arrays |= {name: getattr(export.preprocessing, name) for name in STATISTICS}
    if (whitening := export.preprocessing.whitening) is not None:
        arrays["whitening_mean"] = whitening.mean
        arrays["whitening_upper"] = upper_triangle(whitening.matrix)
    return arrays


def assert_equal(a: Export, b: Export) -> None:
    ours, theirs = arrays_of(a), arrays_of(b)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name, strict=True)
    assert a.class_names == b.class_names
    assert (a.evaluation, a.provenance) == (b.evaluation, b.provenance)
    assert a.results == b.results


def rewrite(path: Path, **changes: Any) -> None:
    """Replaces arrays of an .npz, or removes those given as None."""
    with np.load(path) as npz:
        arrays = dict(npz) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
