"""`frepo-scale prepare` from its settings to a finished set.

Order: all input is checked; shards; labels; moments, one block of rows after the other; whitening;
and last the description that marks the set as finished. Each step writes its results whole or not
at all and reuses those of an earlier attempt, so after a kill the same command gives the same
bytes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import ARCHIVES
from frepo_scale.data.decode import deep_note
from frepo_scale.data.description import LABEL_BYTES, MADE_FIT, read_description
from frepo_scale.data.prepare.copies import with_copy
from frepo_scale.data.prepare.finish import finish, moments_bytes
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
from frepo_scale.data.sources.census import Census
from frepo_scale.data.sources.listing import NAME_ERRORS, NO_TEST_PART, Listing, Part, PartBuilder
from frepo_scale.data.sources.registry import list_source
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.progress import Progress

_HOPELESS = 100  # undecodable images beyond the allowed ones after which decoding ends


def prepare(config: PrepareConfig, preemption: Preemption) -> None:
    """Makes or resumes a prepared set; prints what was decided and the result.

    Raises:
      InputError: anything given is wrong, too many images cannot be decoded, or the disk is full.
      RunError: there is too little memory, or a worker died.
      Preempted: the program is asked to stop; what is finished stays on disk.
    """
    out = OutputFolder(config.out)
    out.check_usable()
    settings: dict[str, Any] = {
        "resolution": config.resolution,
        "filter": config.filter,
        "fit": config.fit,
    } | ({"name": config.name} if config.name is not None else {})
    if out.finished:
        _check_finished(config, out, preemption, settings)
        return
    if config.source_class is None and not config.source.exists():
        list_source(config.source)  # raises
    begun = out.begun
    try:
        if begun:  # checked before the source is read, which may take minutes
            out.begin()
            if out.finished:  # by the process that had the lock before
                _check_finished(config, out, preemption, settings)
                return
            out.check_settings(settings, out.read_settings())
        listing = _listing(config, preemption)
        _check_test(config, listing)
        name = config.name or listing.name or _stem(config.source)
        settings |= {"name": name, "images": listing.fingerprint()}
        attempt = _Job(config, out, preemption, listing, settings)
        tasks = attempt.shard_tasks()
        if not begun:
            out.begin()
            if out.finished:  # by another process, while the source was read
                _check_finished(config, out, preemption, settings)
                return
        attempt.run(tasks)
    finally:
        out.release()


def _listing(config: PrepareConfig, preemption: Preemption) -> Listing:
    """The images of the source that the set will have."""
    listing = list_source(config.source, preemption.check, config.source_class)
    if not config.no_test:
        return listing
    census = listing.census or Census(len(listing.train) + len(listing.test))
    if len(listing.test):
        census.ignore("test images (--no-test)", listing.test.names[0], len(listing.test))
    notes = (*listing.notes, NO_TEST_PART)
    return replace(listing, test=PartBuilder().part(), census=census, notes=notes)


def _check_test(config: PrepareConfig, listing: Listing) -> None:
    """Refuses to leave out a test part unless told to."""
    like = listing.test_like
    if like is not None and not len(listing.test) and not config.no_test:
        raise InputError(
            f"{config.source} has no test part that can be read, but {like.what}",
            "a test part with classes",
            f"{like.fix}; or add --no-test for a set of the training images only",
        )


def _check_finished(
    config: PrepareConfig, out: OutputFolder, preemption: Preemption, settings: dict[str, Any]
) -> None:
    """Checks that a finished set is the one asked for.

    Raises:
      InputError: it has other settings or another source, or is damaged.
      Preempted: the program is asked to stop.
    """
    described = read_description(config.out)
    known = {key: getattr(described, key) for key in ("resolution", "filter", "fit", "name")}
    if MADE_FIT in described.source:  # --fit had no effect
        del known["fit"]
    out.check_settings(settings, known)
    if config.source.exists():
        images = _listing(config, preemption).fingerprint()
        out.check_images(images, described.source["fingerprint"], config.source)
    PreparedSet.open(config.out, verify=True)
    out.clean()  # after a kill between the description and this
    print(f"{config.out} is already prepared")


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _stem(source: Path) -> str:
    """The name of a folder, or of a file without the extension of its form."""
    # A name that is not UTF-8 could not be printed.
    name = source.resolve().name.encode(errors=NAME_ERRORS).decode(errors="replace")
    for ending in sorted(ARCHIVES, key=len, reverse=True):
        name = name.removesuffix(ending)
    return name or "images"


class _Job:
    """One attempt to prepare a set."""

    def __init__(
        self,
        config: PrepareConfig,
        out: OutputFolder,
        preemption: Preemption,
        listing: Listing,
        settings: dict[str, Any],
    ) -> None:
        self._config, self._out, self._preemption = config, out, preemption
        self._listing, self._settings = listing, settings
        stored, self._copy = with_copy(listing, out.copy)
        self._parts = {name: part.shuffled() for name, part in stored.parts.items()}
        self._shape = (config.resolution, config.resolution, listing.channels or 3)

    def shard_tasks(self) -> dict[str, list[ShardTask]]:
        """The shards of each part.

        Raises:
          InputError: the disk has no space for them.
        """
        tasks = {name: self._part_tasks(name, part) for name, part in self._parts.items()}
        # An upper bound on the disk space in use at any time.
        images, shards = sum(map(len, self._parts.values())), sum(map(len, tasks.values()))
        record = LABEL_BYTES + int(np.prod(self._shape)) + RECORD_OVERHEAD
        needed = images * (record + 4) + shards * SHARD_OVERHEAD + self._copy.size
        self._out.check_space(needed + moments_bytes(self._shape))
        return tasks

    def run(self, tasks: dict[str, list[ShardTask]]) -> None:
        """All steps in order; the lock is held."""
        config, out, listing = self._config, self._out, self._listing
        earlier, images = out.read_settings(), self._settings["images"]
        out.check_images(images, earlier.get("images", images), config.source)
        out.check_settings(self._settings, earlier)
        for note in dict.fromkeys(listing.notes):
            print(f"{listing.form}: {note}")
        with out.explain_errors():
            out.write_settings(self._settings)
            if self._copy.blocks and not out.copy.exists():
                with whole_file(out.copy) as file:
                    self._copy.write(file, self._preemption.check)
        results = self._make_shards(tasks)
        with out.explain_errors():
            finished = finish(config, out, listing, self._settings, tasks, results, self._run_all)
        out.clean()
        for note in deep_note(max(r.deep for part in results.values() for r in part)):
            print(note)
        counts = ", ".join(f"{sum(n):,} {part}" for part, n in finished.counts.items())
        skipped = len(finished.skipped)
        print(
            f"{finished.name}: {len(finished.class_names)} classes, {counts} images of"
            f" {config.resolution}x{config.resolution} in {config.out}"
            + (f"; {skipped} undecodable ones left out" if skipped else "")
        )
        print(listing.count(finished.skipped))

    def _run_all(
        self,
        what: str,
        images: int,
        work: Callable[[Any, Callable[[int], None]], Any],
        tasks: Sequence[Any],
        finished: Callable[[int, Any], None] = lambda number, result: None,
    ) -> list[Any]:
        """The results of all tasks, with a progress bar over `images`."""
        workers = self._config.workers or _usable_cores()
        with Progress(what, images, unit=" images") as bar:

            def advance(done: int) -> None:
                self._preemption.check()
                bar.advance(done)

            return run_tasks(self._out.explaining(work), tasks, workers, advance, finished)

    def _part_tasks(self, name: str, part: Part) -> list[ShardTask]:
        size = shard_size(len(part), LABEL_BYTES + int(np.prod(self._shape)))
        count = -(-len(part) // size)
        tasks = []
        for number in range(count):
            rows = np.arange(number * size, min((number + 1) * size, len(part)))
            file = shard_name(name, number, count)
            tasks.append(
                ShardTask(
                    shard=self._out.root / file,
                    note=self._out.work / f"{file}.json",
                    images=part.take(rows),
                    shape=self._shape,
                    fit=self._config.fit,
                    kernel=self._config.filter,
                )
            )
        return tasks

    def _make_shards(self, tasks: dict[str, list[ShardTask]]) -> dict[str, list[ShardResult]]:
        """Makes the shards of all parts; refuses more undecodable images than allowed."""
        allowed = self._config.skip_bad
        all_tasks = [task for part in tasks.values() for task in part]
        bad: list[tuple[str, str]] = []

        def finished(number: int, result: ShardResult) -> None:
            bad.extend((all_tasks[number].images.names[row], reason) for row, reason in result.bad)
            if len(bad) > allowed + _HOPELESS:
                self._refuse(bad, "at least ")

        total = sum(len(task.images) for task in all_tasks)
        results = iter(self._run_all("decoding", total, make_shard, all_tasks, finished))
        if len(bad) > allowed:
            self._refuse(bad)
        return {name: [next(results) for _ in part] for name, part in tasks.items()}

    def _refuse(self, bad: list[tuple[str, str]], count: str = "") -> None:
        path = self._out.undecodable
        with whole_file(path) as file:
            text = "".join(f"{name}: {reason}\n" for name, reason in sorted(bad))
            file.write(text.encode(errors=NAME_ERRORS))
        name, reason = min(bad)
        raise InputError(
            f"{count}{len(bad)} undecodable images in {self._config.source}, the first {name}"
            f" ({reason}), all in {path}",
            f"at most {self._config.skip_bad} (--skip-bad)",
            ("check that the source is intact; " if count else "")
            + f"add --skip-bad {'with their number' if count else len(bad)} to leave them out and"
            " resume; or repair them and prepare into another --out",
        )
