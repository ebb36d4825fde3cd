"""The files of a set besides its shards: labels, whitening, and last the description."""

import hashlib
import importlib.metadata
from typing import Any, NamedTuple, Protocol

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.data.description import (
    CENSUS,
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
    MomentsTask,
    make_moments,
    row_blocks,
)
from frepo_scale.data.prepare.output import OutputFolder
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.prepare.shards import ShardResult, ShardTask
from frepo_scale.data.sources.checks import all_equal, check_classes
from frepo_scale.data.sources.listing import Listing
from frepo_scale.data.whitening import histogram_statistics
from frepo_scale.data.whitening_grid import grids_per_axis

COLOUR = 3  # channels
_LARGE = 1024  # dimensions whose eigenvectors take more than a second
_COVERS = "names, labels and sizes of all images; not their content"
Tasks = dict[str, list[ShardTask]]
Results = dict[str, list[ShardResult]]


class RunAll(Protocol):
    """Runs tasks in worker processes, with a progress bar over `images`."""

    def __call__(self, what: str, images: int, work: Any, tasks: Any) -> list[Any]:
        """The results in order."""
        ...


def finish(
    config: PrepareConfig,
    out: OutputFolder,
    listing: Listing,
    settings: dict[str, Any],
    tasks: Tasks,
    results: Results,
    run_all: RunAll,
) -> Description:
    """Writes the files of a set besides its shards, and returns its description.

    Args:
      config: of the command.
      out: has the shards.
      listing: the images of the source.
      settings: name and fingerprint of the images, as written when the set was begun.
      tasks: the shards of each part.
      results: their results.
      run_all: runs the tasks of the moments and of the whitening.

    Raises:
      InputError: a class has no readable training image; a file cannot be written.
    """
    labels, skipped = part_labels(tasks, results)
    names, channels = listing.class_names or (), listing.channels or 3
    check_classes(labels["train"], names, str(config.source))
    with whole_file(out.root / LABELS) as file:
        np.savez(file, **labels)  # type: ignore[arg-type]
    held_out = held_out_rows(labels["train"], len(names))
    shape = (config.resolution, config.resolution, channels)
    statistics = _statistics(shape, out, tasks["train"], results["train"], ~held_out, run_all)
    if not statistics.varied:
        raise all_equal(str(config.source))
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
            part: tuple(np.bincount(found, minlength=len(names)).tolist())
            for part, found in labels.items()
        },
        held_out=int(held_out.sum()),
        channel_mean=tuple(statistics.mean.tolist()),
        channel_std=tuple(statistics.std.tolist()),
        shards={name: _shards(tasks[name], results[name]) for name in tasks},
        files={LABELS: file_sha256(out.root / LABELS)},
        source=_source(config, listing, settings["images"], skipped),
        skipped=tuple(skipped),
        fitted=statistics.fitted,
    )
    return write_description(out.root, description)


def _source(
    config: PrepareConfig, listing: Listing, fingerprint: str, skipped: list[tuple[str, str]]
) -> dict[str, str]:
    """What the description says of the source."""
    return {
        "form": listing.form,
        "name": config.source.resolve().name,
        "fingerprint": fingerprint,
        "covers": _COVERS,
        CENSUS: listing.count(skipped),
        **({MADE_FIT: listing.fit} if listing.fit is not None else {}),
    }


def _shards(tasks: list[ShardTask], results: list[ShardResult]) -> tuple[Shard, ...]:
    return tuple(
        Shard(task.shard.name, result.records, result.bytes, result.sha256)
        for task, result in zip(tasks, results, strict=True)
    )


def whitens(shape: tuple[int, int, int]) -> bool:
    """Whether runs whiten images (H, W, C): those in colour that split into grids."""
    return shape[2] == COLOUR and grids_per_axis(shape[0]) is not None


def moments_bytes(shape: tuple[int, int, int]) -> int:
    """Disk space of the moments in int64 and of a matrix and its inverse in float32."""
    if not whitens(shape):
        return 0
    blocks = row_blocks(shape, grids_per_axis(shape[0]))
    return 8 * (sum((high - low) * high for low, high in blocks) + blocks[-1][1] ** 2)


def part_labels(
    tasks: Tasks, results: Results
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Labels (n,) int32 of each part in record order; names and reasons of images left out."""
    labels, skipped = {}, []
    for name in tasks:
        good = []
        for task, result in zip(tasks[name], results[name], strict=True):
            rows = [row for row, _ in result.bad]
            good.append(np.delete(task.images.labels, rows))
            skipped += [(task.images.names[row], reason) for row, reason in result.bad]
        labels[name] = np.concatenate(good).astype(np.int32)
    return labels, sorted(skipped)


class _Statistics(NamedTuple):
    """Channel mean and std (C,) float32, and sha256 of the fitted whitening or None.

    `varied`: whether images differ, as far as the statistics show it.
    """

    mean: np.ndarray
    std: np.ndarray
    fitted: str | None
    varied: bool


def _statistics(
    shape: tuple[int, int, int],
    out: OutputFolder,
    tasks: list[ShardTask],
    results: list[ShardResult],
    counts: np.ndarray,
    run_all: RunAll,
) -> _Statistics:
    """The statistics of the training images where `counts` (n,) bool is true."""
    grid = grids_per_axis(shape[0]) if whitens(shape) else None
    if grid is None and shape[2] == COLOUR:
        print(f"no whitening: {shape[0]} pixels cannot be split into grids")
    ends = np.cumsum([result.records for result in results])
    rows = np.split(counts, ends[:-1])
    shards = tuple((task.shard, keep) for task, keep in zip(tasks, rows, strict=True))
    digest = hashlib.sha256(counts.tobytes())
    for result in results:
        digest.update(result.sha256.encode())
    identity = digest.hexdigest()
    moments = [
        MomentsTask(
            shards=shards,
            shape=shape,
            grid=grid,
            low=low,
            high=high,
            result=out.work / f"moments-{low:05}.npz",
            identity=identity,
        )
        for low, high in row_blocks(shape, grid)
    ]
    # Largest first, so that no worker ends long after the others.
    run_all("moments", len(counts) * len(moments), make_moments, moments[::-1])
    files = tuple(task.result for task in moments)
    with np.load(files[0]) as first:
        mean, std = histogram_statistics(first["histogram"])
        varied = bool((np.count_nonzero(first["histogram"], axis=1) > 1).any())
    if grid is None:
        return _Statistics(mean, std, None, varied)
    fit = FitTask(files, shape, grid, int(counts.sum()), out.root / WHITENING, identity)
    if (size := moments[-1].high) < _LARGE:
        fitted = fit_whitening(fit, lambda done: None)
        return _Statistics(mean, std, fitted, fitted is not None)
    # By a worker, which can be stopped.
    (fitted,) = run_all(f"eigenvectors in {size} dimensions", 1, fit_whitening, [fit])
    return _Statistics(mean, std, fitted, fitted is not None)
