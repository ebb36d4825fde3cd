"""Every form gives the same pixels and labels in memory and in a prepared set."""

import gzip
import pickle
import struct
from contextlib import closing

import numpy as np
import pytest
import source_forms
from array_record.python.array_record_module import ArrayRecordWriter

from frepo_scale.core.errors import InputError
from frepo_scale.data.memory import Wanted, load_images
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.registry import SOURCES, find_source, list_source
from frepo_scale.data.types import everything

SIDE = 8
RNG = np.random.default_rng(0)


def tar(path, images):
    files = {f"top/{name}": data for name, data in images.pictures(5, 2).items()}
    path.write_bytes(images.tar_of(files))
    return path


def zipped(path, images):
    plain = tar(path.with_suffix(".tar"), images)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def archives(path, images):
    files = images.pictures(5, 2)
    inner = {
        f"{w}.tar": images.tar_of(
            {n.split("/")[2]: d for n, d in files.items() if n.startswith(f"train/{w}")}
        )
        for w in images.wnids
    }
    val = {n.removeprefix("test/"): d for n, d in files.items() if n.startswith("test/")}
    outer = {
        "ILSVRC2012_img_train.tar": images.tar_of(inner),
        "ILSVRC2012_img_val.tar": images.tar_of(val),
    }
    return images.write(path, outer)


def npz(path, images):
    x, y = RNG.integers(0, 256, (20, 12, 10, 1)).astype(np.uint8), np.arange(20) % 4
    np.savez(path, x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    return path


def idx(path, images):
    files = {}
    for part, count in (("train", 12), ("t10k", 6)):
        for kind, array in (
            ("images", RNG.integers(0, 256, (count, 12, 12)).astype(np.uint8)),
            ("labels", np.arange(count, dtype=np.uint8) % 3),
        ):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            files[f"{part}-{kind}-idx{array.ndim}-ubyte.gz"] = gzip.compress(head + array.tobytes())
    return images.write(path, files)


def cifar(path, images):
    files = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = RNG.integers(0, 256, (10, 3073)).astype(np.uint8)
        rows[:, 0] = np.arange(10)
        files[name] = rows.tobytes()
    return images.write(path, files)


def cifar100(path, images):
    files = {}
    for name, count in (("train.bin", 200), ("test.bin", 40)):
        rows = RNG.integers(0, 256, (count, 3074)).astype(np.uint8)
        rows[:, 1] = np.arange(count) % 100
        rows[:, 0] = rows[:, 1] // 5
        files[name] = rows.tobytes()
    return images.write(path, files)


def torchvision(folder, seed):
    return lambda path, images: (
        images.write(path / folder / "raw", source_forms.idx_files(seed)) and path
    )


def parquet(path, images):
    pytest.importorskip("pyarrow")
    return source_forms.parquet(path, images)


def cub200(path, images):
    return images.write(path, source_forms.cub_files(images))


def records(path, images):
    tf = pytest.importorskip("tensorflow")

    def example(number):
        image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[images.encoded(number)]))
        label = tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3]))
        features = tf.train.Features(feature={"image": image, "label": label})
        return tf.train.Example(features=features).SerializeToString()

    def writer(split):
        if path.name.startswith("array"):
            file = path / f"x-{split}.array_record-00000-of-00001"
            return closing(ArrayRecordWriter(str(file), "group_size:1"))
        file = path / f"x-{split}.tfrecord-00000-of-00001"
        kind = "GZIP" if path.name.startswith("gzip") else ""
        return tf.io.TFRecordWriter(str(file), kind)

    path.mkdir()
    for split, numbers in (("train", range(12)), ("test", range(20, 26))):
        with writer(split) as file:
            for number in numbers:
                file.write(example(number))
    return path


FORMS = {
    "folder": lambda path, images: images.write(path, images.pictures(5, 2)),
    "x.tar": tar,
    "x.tar.gz": zipped,
    "archives": archives,
    "x.npz": npz,
    "idx": idx,
    "cifar10": cifar,
    "cifar100": cifar100,
    "webdataset": source_forms.webdataset,
    "batches": lambda path, images: source_forms.batches(path, images)[0],
    "packed batches": lambda path, images: source_forms.batches(path, images, "packed")[0],
    "parquet": parquet,
    "mnist": torchvision("MNIST", 0),
    "fashion_mnist": torchvision("FashionMNIST", 1),
    "cub200": cub200,
    "medmnist.npz": lambda path, images: source_forms.medmnist(path),
    "x.zip": lambda path, images: (
        path.write_bytes(source_forms.zip_of(images.pictures(5, 2))) and path
    ),
    "records": pytest.param(records, marks=pytest.mark.slow),
    "gzip records": pytest.param(records, marks=pytest.mark.slow),
    "array records": pytest.param(records, marks=pytest.mark.slow),
}


def sorted_rows(part):
    rows = np.column_stack([part.labels, everything(part).reshape(len(part), -1)])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param(name, *getattr(make, "values", [make]), marks=getattr(make, "marks", ()))
        for name, make in FORMS.items()
    ],
)
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_memory_and_records_agree(tmp_path, images, run, name, make, fit):
    path = make(tmp_path / name, images)
    listing = list_source(path)
    channels = listing.channels or 3
    loaded = load_images(listing, Wanted(channels, SIDE, fit), str(path))
    run(path, tmp_path / "out", resolution=SIDE, fit=fit)
    prepared = PreparedSet.open(tmp_path / "out")
    assert prepared.description.class_names == listing.class_names
    for one, other in ((loaded.train, prepared.train), (loaded.test, prepared.test)):
        assert one.images.shape[1:] == (SIDE, SIDE, channels)
        np.testing.assert_array_equal(sorted_rows(one), sorted_rows(other))


def test_every_source_of_the_registry_is_tried(tmp_path, images):
    """A new form must be added to the cases above."""
    found = set()
    for name, make in FORMS.items():
        if not name.endswith("records"):  # they need TensorFlow
            source = find_source(make(tmp_path / name, images))
            assert source is not None
            found.add(source[0])
            part = source[0].listing(source[1], lambda: None).train  # workers receive it
            assert part.pixels is not None or pickle.loads(pickle.dumps(part)).names == part.names
    assert len(found) == len(SOURCES) - 1


def test_two_published_sets_at_one_path(tmp_path, images):
    """As torchvision stores them: with a name one is read, without it both are refused."""
    cifar(tmp_path / "cifar-10-batches-bin", images)
    cifar100(tmp_path / "cifar-100-binary", images)
    for name in ("cifar10", "cifar100"):
        source = find_source(tmp_path, name)
        assert source is not None and source[0].dataset == name
    with pytest.raises(InputError, match="cifar10 and cifar100"):
        list_source(tmp_path)
