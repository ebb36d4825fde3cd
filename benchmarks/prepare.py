"""Preparing with one and two workers, and reading records against `tf.data`.

    python benchmarks/prepare.py SOURCE [--resolution 64] [--rounds 3] [--parts whole decode read]

Whole: `prepare` from the listing to the description, with one worker and with two in turn; the best
rounds count.

Decoding: the shards of SOURCE are made by one worker (this process) and by two (processes of
their own) in turn; the ratio of the best rounds counts, with the start of the workers and without.
On busy cores the ratio depends on other programs, so CPU time per image is printed too.

Reading: batches of 1024 random records of the set into one array, in one thread, against `tf.data`
reading the same images from TFRecords, parsed and batched, with one thread: in order, and shuffled
in a buffer, as it has no random access and training needs another order. Images per CPU second and
per second, best of the rounds.

The start of the workers takes seconds: SOURCE should have some thousands of images. Matrix products
have one thread, as in `frepo-scale prepare`.

After each figure with a required value (bar) the output says whether it is met; the bar of the
reader is for 64 px.
"""

import argparse
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is loaded

import numpy as np

from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.prepare.shards import ShardTask, make_shard, shard_name, shard_size
from frepo_scale.data.prepare.workers import run_tasks
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.registry import list_source
from frepo_scale.ops.preemption import Preemption

BATCH, BATCHES = 1024, 40
BUFFER = 10_000  # records that tf.data shuffles
PARTS = ("whole", "decode", "read")
SPEED_UP = 1.7  # of two workers over one, at least
RECORDS_PER_SECOND = 15_000  # and core, of 64 px, into a host batch, at least
AGAINST_TF = 1.0  # times tf.data, at least


def judged(figure: float, least: float) -> str:
    """Whether a figure is at least its required value, as text."""
    return f"(bar {least:g}: {'met' if figure >= least else 'missed'})"


def whole(source: Path, side: int, workers: int) -> float:
    """Seconds of `prepare`."""
    with tempfile.TemporaryDirectory() as out:
        clock = time.perf_counter()
        prepare(PrepareConfig(source, Path(out) / "set", side, workers=workers), Preemption())
        return time.perf_counter() - clock


def shard_tasks(source: Path, out: Path, side: int) -> list[ShardTask]:
    """The tasks of the workers of `prepare` for the training part."""
    part = list_source(source).train.shuffled()
    size = shard_size(len(part), side * side * 3)
    count = -(-len(part) // size)
    tasks = []
    for number in range(count):
        rows = np.arange(number * size, min((number + 1) * size, len(part)))
        file = out / shard_name("train", number, count)
        note = file.with_suffix(".json")
        tasks.append(ShardTask(file, note, part.take(rows), (side, side, 3), "crop", "area"))
    return tasks


def decode(source: Path, side: int, workers: int) -> tuple[float, float, float, int]:
    """Seconds with and without the start of the workers, CPU seconds, images."""
    with tempfile.TemporaryDirectory() as out:
        tasks = shard_tasks(source, Path(out), side)
        first: list[float] = []
        clock, cpu = time.perf_counter(), sum(os.times()[:4])

        def progress(images: int) -> None:
            if images and not first:
                first.append(time.perf_counter())

        run_tasks(make_shard, tasks, workers, progress)
        end = time.perf_counter()
        images = sum(len(task.images) for task in tasks)
        return end - clock, end - first[0], sum(os.times()[:4]) - cpu, images


def rates(read: Callable[[], Iterator[object]]) -> tuple[float, float]:
    """Images per CPU second and per second over `BATCHES` batches."""
    batches = read()
    next(batches)  # files are open, code is loaded
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        next(batches)
    images = BATCH * BATCHES
    return images / (time.process_time() - cpu), images / (time.perf_counter() - clock)


def read_records(folder: Path) -> Iterator[object]:
    """Batches of random records."""
    train = PreparedSet.open(folder).train
    rng = np.random.default_rng(0)
    while True:
        yield train.read(rng.integers(0, len(train), BATCH))


def write_tfrecords(folder: Path, path: Path) -> None:
    """The same images and labels as one TFRecord file."""
    import tensorflow as tf

    images, labels = PreparedSet.open(folder).train.read(range(len(PreparedSet.open(folder).train)))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


def read_tfrecords(path: Path, side: int, shuffled: bool) -> Iterator[object]:
    """Batches of the same images by tf.data, parsed in batches as its guide recommends."""
    import tensorflow as tf

    keys = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def parse(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_example(examples, keys)
        pixels = tf.io.decode_raw(parsed["image"], tf.uint8)
        return tf.reshape(pixels, [-1, side, side, 3]), parsed["label"]

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    records = tf.data.TFRecordDataset(str(path)).repeat()
    if shuffled:
        records = records.shuffle(BUFFER)
    dataset = records.batch(BATCH, drop_remainder=True)
    return iter(dataset.map(parse).with_options(options).as_numpy_iterator())


def whole_table(source: Path, side: int, rounds: int) -> None:
    """One line for one worker, one for two, and their ratio."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in seconds:
            seconds[workers].append(whole(source, side, workers))
    for workers, times in seconds.items():
        print(f"{workers} worker(s): the whole of prepare takes {min(times):.1f} s")
    ratio = min(seconds[1]) / min(seconds[2])
    print(f"two workers against one, the whole: {ratio:.2f} {judged(ratio, SPEED_UP)}")


def decode_table(source: Path, side: int, rounds: int) -> None:
    """The same of decoding alone."""
    runs: dict[int, list[tuple[float, float, float, int]]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in runs:
            runs[workers].append(decode(source, side, workers))
    for workers, found in runs.items():
        started, steady = min(run[0] for run in found), min(run[1] for run in found)
        cpu, images = min(run[2] for run in found), found[0][3]
        print(
            f"{workers} worker(s): {images / started:6.0f} images/s decoded with the start,"
            f" {images / steady:6.0f} without, {1e3 * cpu / images:.2f} ms CPU per image"
        )
    for row, what in ((0, "with the start"), (1, "without")):
        one, two = (min(run[row] for run in runs[workers]) for workers in (1, 2))
        ratio = one / two
        print(f"two workers against one, decoding {what}: {ratio:.2f} {judged(ratio, SPEED_UP)}")


def read_table(source: Path, side: int, rounds: int) -> None:
    """One line for each way to read."""
    with tempfile.TemporaryDirectory() as work:
        folder, path = Path(work) / "set", Path(work) / "x.tfrecord"
        prepare(PrepareConfig(source, folder, side), Preemption())
        write_tfrecords(folder, path)
        readers = {
            "records, random": functools.partial(read_records, folder),
            "tf.data, in order": functools.partial(read_tfrecords, path, side, False),
            "tf.data, shuffled": functools.partial(read_tfrecords, path, side, True),
        }
        best = {name: (0.0, 0.0) for name in readers}
        for _ in range(rounds):
            for name, read in readers.items():
                cpu, wall = rates(read)
                best[name] = max(best[name][0], cpu), max(best[name][1], wall)
    for name, (cpu, wall) in best.items():
        print(f"{name:20} {cpu:8.0f} images per CPU second, {wall:8.0f} per second")
    ours = best.pop("records, random")
    if side == 64:
        print(f"records per CPU second: {ours[0]:.0f} {judged(ours[0], RECORDS_PER_SECOND)}")
    for name, theirs in best.items():
        for row, what in ((0, "per CPU second"), (1, "per second")):
            ratio = ours[row] / theirs[row]
            print(f"records against {name}, {what}: {ratio:.2f} {judged(ratio, AGAINST_TF)}")


def main() -> None:
    """Prints the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    for part, table in zip(PARTS, (whole_table, decode_table, read_table), strict=True):
        if part in options.parts:
            table(options.source, options.resolution, options.rounds)


if __name__ == "__main__":
    main()
