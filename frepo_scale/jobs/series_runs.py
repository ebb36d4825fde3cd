"""The runs of a series: what each distils, and where."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from frepo_scale.core.errors import InputError
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.sources.specs import spec_for
from frepo_scale.data.subset import text_of
from frepo_scale.jobs.settings import RunConfig
from frepo_scale.ops.workdir import PART

# What makes a run of a series a run of its own. Its own accuracies need nothing but its set.
_SINGLE = {"SERIES": "None", "SERIES_PARTS": "5", "SERIES_RUNS": "0", "EVALUATIONS": "['accuracy']"}


@dataclass(frozen=True)
class SeriesRun:
    """One run of a series.

    Attributes:
      name: the folder of its workdir in that of the series.
      changes: the settings in which its recipe differs from that of the series, as text.
      data: its part of the data.
    """

    name: str
    changes: Mapping[str, str]
    data: DataConfig


def runs_of(config: RunConfig) -> list[SeriesRun]:
    """The runs of a series, in order.

    Raises:
      InputError: there are fewer classes than parts, or the data that say how many cannot be read.
    """
    series, data = config.series, config.data
    if series.by == "classes":
        known = spec_for(data.name).num_classes
        classes = load_dataset(data).num_classes if known is None else known
        parts = [
            replace(data, classes=text_of(part))
            for part in class_parts(classes, series.parts, config.distill.seed)
        ]
    else:
        parts = [
            replace(data, chunk_of=f"{number}/{series.parts}") for number in range(series.parts)
        ]
    chosen = parts[: series.runs or series.parts]
    digits = max(2, len(str(len(chosen) - 1)))
    return [
        SeriesRun(
            f"{PART}{number:0{digits}d}",
            _SINGLE | {"CLASSES": repr(part.classes), "CHUNK_OF": repr(part.chunk_of)},
            part,
        )
        for number, part in enumerate(chosen)
    ]


def class_parts(num_classes: int, parts: int, seed: int) -> list[np.ndarray]:
    """The classes of each part (k,) ascending: a random order of the K classes, cut into parts.

    Raises:
      InputError: there are more parts than classes.
    """
    if parts > num_classes:
        raise InputError(
            f"SERIES_PARTS = {parts} for {num_classes} classes",
            f"at most {num_classes}",
            f"use --gin.SERIES_PARTS={num_classes}",
        )
    # Philox words never change between versions of NumPy (see data.pipeline).
    words = np.random.Philox(key=[seed, num_classes]).random_raw(num_classes)
    order = np.argsort(words, kind="stable")
    return [np.sort(part) for part in np.array_split(order, parts)]
