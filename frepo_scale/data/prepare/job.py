"""`frepo-scale prepare` from its settings to a finished set.

Order: everything wrong is told; shards; labels; moments, one block of rows after the other;
whitening; and last the description that makes the set finished. Each step leaves its results
whole or not at all and takes those of an earlier attempt as they are, so that after a kill the
same command goes on, to the same bytes.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import ARCHIVES
from frepo_scale.data.description import LABEL_BYTES, MADE_FIT, read_description
from frepo_scale.data.prepare.copies import with_copy
from frepo_scale.data.prepare.finish import finish, whitens
from frepo_scale.data.prepare.moments import row_blocks
from frepo_scale.data.prepare.output import OutputFolder
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.prepare.shards import (
    RECORD_OVERHEAD,
    SHARD_OVERHEAD,
    ShardResult,
    ShardTask,
    make_shard,
    shard_name,
    shard_size,
)
from frepo_scale.data.prepare.workers import run_tasks
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.listing import NAME_ERRORS, Listing, Part
from frepo_scale.data.sources.registry import list_source
from frepo_scale.data.whitening_grid import grids_per_axis
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress

_HOPELESS = 100  # undecodable images beyond the allowed ones after which no more are looked at


def prepare(config: PrepareConfig, preemption: Preemption) -> None:
    """Makes a prepared set, or goes on with one; prints what was decided and what came out.

    Raises:
      InputError: anything given is wrong, too many images cannot be decoded, or the disk is full.
      RunError: there is too little memory, or a worker died.
      Preempted: a stop was asked for; what is finished is kept.
    """
    place = OutputFolder(config.out)
    place.check_free()
    settings: dict[str, Any] = {
        "resolution": config.resolution,
        "filter": config.filter,
        "fit": config.fit,
    } | ({"name": config.name} if config.name is not None else {})
    if place.finished:
        _already(config, place, preemption, settings)
        return
    if config.source_class is None and not config.source.exists():
        list_source(config.source)  # raises
    begun = place.begun
    try:
        if begun:  # told before the source is read, which may take minutes
            place.begin()
            if place.finished:  # by somebody who had the lock a moment ago
                _already(config, place, preemption, settings)
                return
            place.check_same(settings, place.noted())
        listing = list_source(config.source, preemption.check, config.source_class)
        name = config.name or listing.name or _stem(config.source)
        settings |= {"name": name, "images": listing.fingerprint()}
        attempt = _Job(config, place, preemption, listing, settings)
        tasks = attempt.shard_tasks()
        if not begun:
            place.begin()
            if place.finished:  # while we read the source
                _already(config, place, preemption, settings)
                return
        attempt.run(tasks)
    finally:
        place.release()


def _already(
    config: PrepareConfig, place: OutputFolder, preemption: Preemption, settings: dict[str, Any]
) -> None:
    """Says that nothing is to be done.

    Raises:
      InputError: the finished set is of other settings or of another source, or damaged.
      Preempted: a stop was asked for.
    """
    there = read_description(config.out)
    known = {key: getattr(there, key) for key in ("resolution", "filter", "fit", "name")}
    if MADE_FIT in there.source:  # not what was asked for, which had nothing to fit
        del known["fit"]
    place.check_same(settings, known)
    if config.source.exists():
        images = list_source(config.source, preemption.check, config.source_class).fingerprint()
        place.check_images(images, there.source["fingerprint"], config.source)
    PreparedSet.open(config.out, verify=True)
    place.clean()  # a kill between the description and this
    print(f"{config.out} is already prepared")


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stem(source: Path) -> str:
    """A file's name without what says its form; a folder's name."""
    # A name that is no UTF-8 could not be printed.
    name = source.resolve().name.encode(errors=NAME_ERRORS).decode(errors="replace")
    for ending in sorted(ARCHIVES, key=len, reverse=True):
        name = name.removesuffix(ending)
    return name or "images"


class _Job:
    """One attempt at a set."""

    def __init__(
        self,
        config: PrepareConfig,
        place: OutputFolder,
        preemption: Preemption,
        listing: Listing,
        settings: dict[str, Any],
    ) -> None:
        self._config, self._place, self._preemption = config, place, preemption
        self._listing, self._settings = listing, settings
        stored, self._copy = with_copy(listing, place.copy)
        self._workers = config.workers or _usable_cores()
        self._parts = {name: part.shuffled() for name, part in stored.parts.items()}
        self._shape = (config.resolution, config.resolution, listing.channels or 3)

    def shard_tasks(self) -> dict[str, list[ShardTask]]:
        """The shards of each part, after a look whether there is room for them."""
        tasks = {name: self._part_tasks(name, part) for name, part in self._parts.items()}
        self._place.check_room(self._needed_bytes(sum(map(len, tasks.values()))))
        return tasks

    def run(self, tasks: dict[str, list[ShardTask]]) -> None:
        """Everything, in order; the lock is ours."""
        config, place, listing = self._config, self._place, self._listing
        noted, images = place.noted(), self._settings["images"]
        place.check_images(images, noted.get("images", images), config.source)
        place.check_same(self._settings, noted)
        for note in listing.notes:
            print(f"{listing.form}: {note}")
        with place.room():
            place.claim(self._settings)
            if self._copy.blocks and not place.copy.exists():
                with whole_file(place.copy) as file:
                    self._copy.write(file, self._preemption.check)
        results = self._make_shards(tasks)
        with place.room():
            finished = finish(config, place, listing, self._settings, tasks, results, self._all)
        place.clean()
        counts = ", ".join(f"{sum(n):,} {part}" for part, n in finished.counts.items())
        left_out = len(finished.skipped)
        print(
            f"{finished.name}: {len(finished.class_names)} classes, {counts} images of"
            f" {config.resolution}x{config.resolution} in {config.out}"
            + (f"; {left_out} undecodable ones left out" if left_out else "")
        )

    def _all(
        self,
        what: str,
        images: int,
        work: Callable[[Any, Callable[[int], None]], Any],
        tasks: Sequence[Any],
        finished: Callable[[int, Any], None] = lambda number, result: None,
    ) -> list[Any]:
        """The results of all tasks, with a bar over so many images, until a stop is asked for."""
        with Progress(what, images, unit=" images") as bar:

            def tick(done: int) -> None:
                self._preemption.check()
                bar.advance(done)

            return run_tasks(self._place.careful(work), tasks, self._workers, tick, finished)

    def _part_tasks(self, name: str, part: Part) -> list[ShardTask]:
        config, place = self._config, self._place
        size = shard_size(len(part), LABEL_BYTES + int(np.prod(self._shape)))
        count = -(-len(part) // size)
        tasks = []
        for number in range(count):
            rows = np.arange(number * size, min((number + 1) * size, len(part)))
            file = shard_name(name, number, count)
            tasks.append(
                ShardTask(
                    shard=place.root / file,
                    note=place.work / f"{file}.json",
                    images=part.take(rows),
                    shape=self._shape,
                    fit=config.fit,
                    kernel=config.filter,
                )
            )
        return tasks

    def _needed_bytes(self, shards: int) -> int:
        """An estimate from above of what will be on the disk at once."""
        images = sum(map(len, self._parts.values()))
        record = LABEL_BYTES + int(np.prod(self._shape)) + RECORD_OVERHEAD
        sums = 0
        if whitens(self._shape):
            blocks = row_blocks(self._shape, grids_per_axis(self._shape[0]))
            # The moments in int64, a matrix and its inverse in float32.
            sums = 8 * (sum((high - low) * high for low, high in blocks) + blocks[-1][1] ** 2)
        return images * (record + 4) + shards * SHARD_OVERHEAD + sums + self._copy.size

    def _make_shards(self, tasks: dict[str, list[ShardTask]]) -> dict[str, list[ShardResult]]:
        """Makes the shards of all parts; refuses more undecodable images than allowed."""
        config = self._config
        everything = [task for part in tasks.values() for task in part]
        bad: list[tuple[str, str]] = []

        def finished(number: int, result: ShardResult) -> None:
            bad.extend((everything[number].images.names[row], reason) for row, reason in result.bad)
            if len(bad) > config.skip_bad + _HOPELESS:
                self._refuse(bad, "at least ")

        total = sum(len(task.images) for task in everything)
        results = self._all("decoding", total, make_shard, everything, finished)
        if len(bad) > config.skip_bad:
            self._refuse(bad)
        split, start = {}, 0
        for name, part in tasks.items():
            split[name] = results[start : start + len(part)]
            start += len(part)
        return split

    def _refuse(self, bad: list[tuple[str, str]], count: str = "") -> None:
        place, allowed = self._place, self._config.skip_bad
        with whole_file(place.undecodable) as file:
            text = "".join(f"{name}: {reason}\n" for name, reason in sorted(bad))
            file.write(text.encode(errors=NAME_ERRORS))
        name, reason = min(bad)
        raise InputError(
            f"{count}{len(bad)} undecodable images in {self._config.source}, the first {name}"
            f" ({reason}), all in {place.undecodable}",
            f"at most {allowed} (--skip-bad)",
            f"add --skip-bad {len(bad)} to leave them out, what is finished is kept; or repair them"
            " and prepare into another --out",
        )
