"""What follows from finished shards: labels, whitening statistics, and the description.

The description comes last: it makes the set finished.
"""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.data.description import (
    FITTED,
    LABELS,
    MADE_FIT,
    WHITENING,
    Description,
    Shard,
    file_sha256,
    write_description,
)
from frepo_scale.data.held_out import held_out_rows
from frepo_scale.data.prepare.fit import FitTask, fit_whitening
from frepo_scale.data.prepare.moments import (
    Moments,
    MomentsTask,
    join_moments,
    make_moments,
    row_blocks,
)
from frepo_scale.data.prepare.output import OutputFolder
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.prepare.shards import ShardResult, ShardTask
from frepo_scale.data.sources.listing import Listing, check_classes
from frepo_scale.data.whitening import histogram_statistics
from frepo_scale.data.whitening_grid import grids_per_axis

COLOUR = 3  # channels
_LARGE = 1024  # dimensions whose eigenvectors take more than a second
_COVERS = "names, labels and sizes of all images; not their content"
Tasks = dict[str, list[ShardTask]]
Results = dict[str, list[ShardResult]]


class RunAll(Protocol):
    """Runs tasks in worker processes under a progress bar over so many images."""

    def __call__(self, what: str, images: int, work: Any, tasks: Any) -> list[Any]:
        """The results in order."""
        ...


def finish(
    config: PrepareConfig,
    place: OutputFolder,
    listing: Listing,
    settings: dict[str, Any],
    tasks: Tasks,
    results: Results,
    run_all: RunAll,
) -> Description:
    """Writes all that belongs to a set besides its shards.

    Args:
      config: what was asked for.
      place: where the shards lie.
      listing: the images of the source.
      settings: name and images as noted when the set was begun.
      tasks: the shards of each part.
      results: what became of them.
      run_all: how the moments are summed.

    Returns:
      The description written.

    Raises:
      InputError: a class has no readable training image; a file cannot be written.
    """
    labels, skipped = part_labels(tasks, results)
    names, channels = listing.class_names or (), listing.channels or 3
    check_classes(labels["train"], names, str(config.source))
    with whole_file(place.root / LABELS) as file:
        np.savez(file, **labels)  # type: ignore[arg-type]
    held_out = held_out_rows(labels["train"], len(names))
    shape = (config.resolution, config.resolution, channels)
    moments = _moments(shape, place.work, tasks["train"], results["train"], ~held_out, run_all)
    with whole_file(place.root / WHITENING) as file:
        np.savez(
            file,
            count=np.int64(moments.count),
            histogram=moments.histogram,
            mean=moments.mean,
            covariance=moments.covariance,
            grid=np.int64(grids_per_axis(config.resolution) or 0),
        )
    mean, std = histogram_statistics(moments.histogram)
    fitted = None
    if whitens(shape) and np.trace(moments.covariance) > 0:  # else all images are equal
        fitted = _fit(place.root, mean, std, moments, run_all)
    classes = len(names)
    description = Description(
        name=settings["name"],
        tool=importlib.metadata.version("frepo-scale"),
        resolution=config.resolution,
        channels=channels,
        fit=listing.fit or config.fit,
        filter=config.filter,
        class_names=names,
        wnids=listing.wnids,
        counts={
            name: tuple(np.bincount(part, minlength=classes).tolist())
            for name, part in labels.items()
        },
        held_out=int(held_out.sum()),
        channel_mean=tuple(mean.tolist()),
        channel_std=tuple(std.tolist()),
        shards={
            name: tuple(
                Shard(task.shard.name, result.records, result.bytes, result.sha256)
                for task, result in zip(tasks[name], results[name], strict=True)
            )
            for name in tasks
        },
        files={name: file_sha256(place.root / name) for name in (LABELS, WHITENING)},
        source={
            "form": listing.form,
            "name": config.source.resolve().name,
            "fingerprint": settings["images"],
            "covers": _COVERS,
        }
        | ({MADE_FIT: listing.fit} if listing.fit is not None else {}),
        skipped=tuple(skipped),
        fitted=fitted,
    )
    return write_description(place.root, description)


def whitens(shape: tuple[int, int, int]) -> bool:
    """Whether runs on images (H, W, C) whiten them: those in colour that split into grids."""
    return shape[2] == COLOUR and grids_per_axis(shape[0]) is not None


def _fit(root: Path, mean: np.ndarray, std: np.ndarray, moments: Moments, run_all: RunAll) -> str:
    """Fits the whitening; returns the sha256 of its file."""
    task = FitTask(root, mean, std, file_sha256(root / WHITENING))
    size = len(moments.covariance)
    if size < _LARGE:
        fit_whitening(task, lambda images: None)
    else:  # by a worker, which can be stopped
        run_all(f"eigenvectors in {size} dimensions", 1, fit_whitening, [task])
    return file_sha256(root / FITTED)


def part_labels(
    tasks: Tasks, results: Results
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Labels (n,) int32 of each part in record order, and name and reason of what was left out."""
    labels, skipped = {}, []
    for name in tasks:
        kept = []
        for task, result in zip(tasks[name], results[name], strict=True):
            rows = [row for row, _ in result.bad]
            kept.append(np.delete(task.images.labels, rows))
            skipped += [(task.images.names[row], reason) for row, reason in result.bad]
        labels[name] = np.concatenate(kept).astype(np.int32)
    return labels, sorted(skipped)


def _moments(
    shape: tuple[int, int, int],
    work: Path,
    tasks: list[ShardTask],
    results: list[ShardResult],
    counts: np.ndarray,
    run_all: RunAll,
) -> Moments:
    """The moments of those training images of which `counts` (n,) bool is true."""
    grid = grids_per_axis(shape[0])
    if grid is None:
        print(f"no whitening statistics: {shape[0]} pixels cannot be split into grids")
    ends = np.cumsum([result.records for result in results])
    keep = np.split(counts, ends[:-1])
    shards = tuple((task.shard, rows) for task, rows in zip(tasks, keep, strict=True))
    identity = hashlib.sha256(counts.tobytes())
    for result in results:
        identity.update(result.sha256.encode())
    moments = [
        MomentsTask(
            shards=shards,
            shape=shape,
            grid=grid,
            low=low,
            high=high,
            result=work / f"moments-{low:05}.npz",
            identity=identity.hexdigest(),
        )
        for low, high in row_blocks(shape, grid)
    ]
    # Largest first: the last rows of the triangle are twice the average block and should not be
    # what all others wait for.
    run_all("moments", len(counts) * len(moments), make_moments, moments[::-1])
    files = [task.result for task in moments]
    return join_moments(files, shape, grid, int(counts.sum()))
