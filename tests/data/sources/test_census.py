"""Every entry of every form of source is accounted for, whatever lies beside the images."""

import gzip
import io
import os

import numpy as np
import pytest
import source_forms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.memory import Wanted, load_images
from frepo_scale.data.sources.census import (
    BESIDE,
    LEFTOVER,
    Census,
    is_leftover,
    is_text,
    leftover,
    looks_like_test,
)
from frepo_scale.data.sources.checks import checked
from frepo_scale.data.sources.listing import Listing, Part
from frepo_scale.data.sources.registry import list_source

# Each is one entry: what is in a folder that is not entered counts as that folder.
STRAYS = (
    *(".DS_Store", "Thumbs.db", "._1.JPEG", "desktop.ini", "Icon\r", "1.JPEG~", "x.JPEG.bak"),
    *("README", "notes.txt", "boxes.xml", "labels.csv"),
    *("lost+found/x.JPEG", "__MACOSX/a/._b.JPEG", ".git/config", "@eaDir/1.JPEG/thumb.jpg"),
    ".ipynb_checkpoints/1-checkpoint.JPEG",
)
CLASS = "n01440764"
BIRDS = "CUB_200_2011/images/"


def folder(path, images, strays):
    files = images.pictures(3, 2)
    images.write(path, files | {level + name: b"x" for level, name in strays})
    return path, len(files), 0


def tar(path, images, strays):
    files = images.pictures(3, 2)
    extra = {level + name: b"x" for level, name in strays}
    data = images.tar_of({f"top/{name}": data for name, data in (files | extra).items()})
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path, len(files), 0


def archives(path, images, strays):
    files = images.pictures(3, 2)
    at = {level: {name: b"x" for where, name in strays if where == level} for level, _ in strays}
    inner = {
        f"{w}.tar": images.tar_of(
            {n.split("/")[2]: d for n, d in files.items() if n.startswith(f"train/{w}")}
            | (at.get("inner/", {}) if w == CLASS else {})
        )
        for w in images.wnids
    }
    val = {n.removeprefix("test/"): d for n, d in files.items() if n.startswith("test/")}
    outer = {
        "ILSVRC2012_img_train.tar": images.tar_of(inner | at.get("outer/", {})),
        "ILSVRC2012_img_val.tar": images.tar_of(val | at.get("val/", {})),
    }
    return images.write(path, outer | at.get("", {})), len(files), 2 + len(inner)


def rows(count, *shape):
    return np.random.default_rng(count).integers(0, 256, (count, *shape)).astype(np.uint8)


def npz(path, images, strays):
    """In a folder, as the only archive there."""
    path.mkdir()
    images.write(path, {name: b"x" for level, name in strays if not level})
    y = np.arange(12) % 3
    extra = {name: np.zeros(1) for level, name in strays if level}
    arrays = {"x_train": rows(12, 4, 4, 3), "y_train": y, "x_test": rows(6, 4, 4, 3)}
    np.savez(path / "x.npz", **arrays, y_test=y[:6], **extra)
    return path, 18, 5


def idx(path, images, strays):
    files = {}
    for part, count in (("train", 12), ("t10k", 6)):
        for kind, array in (("images", rows(count, 4, 4)), ("labels", np.arange(count) % 3)):
            sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
            name = f"{part}-{kind}-idx{array.ndim}-ubyte"
            files[name] = bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()
    images.write(path, files | {name: b"x" for _, name in strays})
    return path, 18, 4


def cifar(path, images, strays):
    files = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        batch = rows(10, 3073)
        batch[:, 0] = np.arange(10)
        files[name] = batch.tobytes()
    inside = {name: b"x" for level, name in strays if level}
    if path.suffix == ".tar":
        members = files | inside
        path.write_bytes(
            images.tar_of({f"cifar-10-batches-bin/{n}": d for n, d in members.items()})
        )
        return path, 60, 6
    images.write(path / "cifar-10-batches-bin", files | inside)
    images.write(path, {name: b"x" for level, name in strays if not level})
    return path, 60, 6


def at(strays, level):
    return {name: b"x" for where, name in strays if where == level}


def zipped(path, images, strays):
    files = images.pictures(3, 2)
    extra = {level + name: b"x" for level, name in strays}
    path.write_bytes(
        source_forms.zip_of({f"top/{name}": data for name, data in (files | extra).items()})
    )
    return path, len(files), 0


def webdataset(path, images, strays):
    source_forms.webdataset(path, images, extra=at(strays, "shard/"))
    images.write(path, at(strays, ""))
    return path, 12, 12 + 3 + 1, 12  # the class of each, shards, names; the .json of each


def batches(path, images, strays):
    source_forms.batches(path, images)
    images.write(path, at(strays, ""))
    return path, 12, 3 + 1


def parquet(path, images, strays):
    pytest.importorskip("pyarrow")
    source_forms.parquet(path / "data", images)
    images.write(path / "data", at(strays, "data/"))
    images.write(path, at(strays, ""))
    return path, 12, 3


def cub200(path, images, strays):
    images.write(path, source_forms.cub_files(images))
    for level in ("", "CUB_200_2011/", BIRDS, f"{BIRDS}001.Bird_0/"):
        images.write(path / level, at(strays, level))
    return path, 12, 4, 2  # bounding_boxes.txt, attributes.txt


def torchvision(path, images, strays):
    images.write(path / "MNIST/raw", source_forms.idx_files())
    for level in ("", "MNIST/", "MNIST/raw/"):
        images.write(path / level, at(strays, level))
    return path, 18, 4


def medmnist(path, images, strays):
    images.write(path, at(strays, "") | {"x.npz": b""})
    source_forms.medmnist(path / "x.npz", val_images=None)
    return path, 15, 4 + 1, 1  # val_labels


CLASSES = ("", "train/", "test/", f"train/{CLASS}/", f"test/{CLASS}/")
FORMS = {
    "folder": (folder, CLASSES),
    "x.tar": (tar, CLASSES),
    "x.tar.gz": (tar, CLASSES),
    "archives": (archives, ("", "outer/", "inner/", "val/")),
    "npz": (npz, ("", "array/")),
    "idx": (idx, ("",)),
    "cifar": (cifar, ("", "batches/")),
    "cifar.tar": (cifar, ("batches/",)),
    "x.zip": (zipped, CLASSES),
    "webdataset": (webdataset, ("", "shard/")),
    "batches": (batches, ("",)),
    "parquet": (parquet, ("", "data/")),
    "cub200": (cub200, ("", "CUB_200_2011/", BIRDS, f"{BIRDS}001.Bird_0/")),
    "torchvision": (torchvision, ("", "MNIST/", "MNIST/raw/")),
    "medmnist": (medmnist, ("",)),
}


@pytest.mark.parametrize("name", FORMS)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_seen_is_read_and_ignored_and_held(tmp_path_factory, images, name, data):
    make, levels = FORMS[name]
    stray = st.tuples(st.sampled_from(levels), st.sampled_from(STRAYS))
    strays = data.draw(st.sets(stray, max_size=12))
    if name == "npz":  # the name of an array cannot have a slash
        strays = {
            (level, n.replace("/", "_").replace("\r", "") if level else n) for level, n in strays
        }
    root = tmp_path_factory.mktemp("s")
    path, wanted, held, *always = make(root / name, images, strays)
    ignored = len(strays) + sum(always)  # some forms have entries that are never read
    listing = list_source(path)
    census = listing.census
    assert len(listing.train) + len(listing.test) == wanted
    assert (census.held, sum(census.ignored.values())) == (held, ignored)
    assert census.seen == wanted + held + ignored
    clean, *_ = make(root / f"clean{name}", images, ())
    assert listing.fingerprint() == list_source(clean).fingerprint()
    line = listing.count()
    assert "\n" not in line and f"{census.seen:,} entries seen = {wanted:,} images read" in line


@pytest.mark.slow
def test_records(tmp_path, images):
    tf = pytest.importorskip("tensorflow")

    def example(number):
        image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[images.encoded(number)]))
        label = tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3]))
        features = tf.train.Features(feature={"image": image, "label": label})
        return tf.train.Example(features=features).SerializeToString()

    for split in ("train", "test", "val"):
        with tf.io.TFRecordWriter(str(tmp_path / f"x-{split}.tfrecord-00000-of-00001")) as writer:
            for number in range(6):
                writer.write(example(number))
    strays = [name for name in STRAYS if "/" not in name]
    images.write(tmp_path, {name: b"x" for name in strays} | {"dataset_info.json": b"{}"})
    census = list_source(tmp_path).census
    assert (census.seen, census.held) == (12 + 3 + len(strays) + 1, 3)
    assert sum(census.ignored.values()) == len(strays) + 1  # the split val is not read


def test_a_source_that_loses_an_entry_is_a_bug(images, tmp_path):
    listing = list_source(images.write(tmp_path, images.pictures(2, 1)))
    listing.census.see()
    with pytest.raises(RuntimeError, match="10 entries were seen and 9 accounted for"):
        checked(listing, "x", None)


def test_own_sources_need_no_census():
    part = Part.of_arrays(rows(4, 2, 2, 3), np.arange(4) % 2, "train")
    listing = checked(Listing("mine", part, part), "x", None)
    assert listing.count().startswith("8 entries seen = 8 images read + 0 skipped + 0 ignored")


OTHER = ("e.npy", "d.avif", "x.jp2", "clip.mp4", "more.zip", "noextension")


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("other", OTHER)
def test_any_other_file_among_images_is_refused_by_name_or_skipped(tmp_path, images, form, other):
    files = images.pictures(3, 2) | {f"train/{CLASS}/{other}": b"not an image" * 9}
    path = images.write(tmp_path / "f", files)
    if form == "tar":
        path = tmp_path / "x.tar"
        path.write_bytes(images.tar_of(files))
    listing = list_source(path)
    with pytest.raises(InputError) as caught:
        load_images(listing, Wanted(3, 8, "crop"), str(path))
    assert f"{CLASS}/{other}" in caught.value.what
    assert "SKIP_UNREADABLE=1" in caught.value.fix
    loaded = load_images(listing, Wanted(3, 8, "crop", skip_unreadable=1), str(path))
    assert len(loaded.train) == 9
    line = listing.count(loaded.skipped)
    assert "16 entries seen = 15 images read + 1 skipped (1 not an image" in line
    assert other in line


@pytest.mark.parametrize("name", ["1.jfif", "1.jpe", "1.JFIF", "1", "1.image", "1.png"])
def test_images_go_by_their_content(tmp_path, images, name):
    files = images.pictures(3, 2) | {f"train/{CLASS}/{name}": images.encoded(77)}
    listing = list_source(images.write(tmp_path, files))
    assert len(load_images(listing, Wanted(3, 8, "crop"), "x").train) == 10


@pytest.mark.parametrize("where", ["inner", "val"])
def test_other_files_in_ilsvrc_archives_are_images(tmp_path, images, where):
    path, _, _ = archives(tmp_path / "a", images, {(f"{where}/", "README")})
    good = len(list_source(path).train) + len(list_source(path).test)
    level = "" if where == "inner" else f"{CLASS}/"
    path, _, _ = archives(tmp_path / "b", images, {(f"{where}/", f"{level}e.npy")})
    listing = list_source(path)
    assert len(listing.train) + len(listing.test) == good + 1
    with pytest.raises(InputError, match=r"1 unreadable images .*e\.npy"):
        load_images(listing, Wanted(3, 8, "crop"), "x")


@pytest.mark.parametrize(
    "below", ["deep/1.JPEG", "images/x/1.JPEG", "images/x/y/1.JPEG", "a/b/c/d/e"]
)
def test_files_below_every_known_layout_are_refused(tmp_path, images, below):
    path = images.write(tmp_path / "f", images.pictures(2, 1) | {f"train/{CLASS}/{below}": b"x"})
    for source in (path, tmp_path / "x.tar"):
        if source.suffix:
            files = {
                str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()
            }
            source.write_bytes(images.tar_of(files))
        with pytest.raises(InputError) as caught:
            list_source(source)
        assert f"train/{CLASS}/{below.split('/')[0]}" in caught.value.what


def test_a_folder_that_is_not_entered_may_be_unreadable(tmp_path, images):
    """lost+found belongs to root; a home directory is not walked."""
    path = images.write(tmp_path, images.pictures(2, 1) | {"lost+found/x": b"", "home/a/b": b""})
    os.chmod(path / "lost+found", 0)
    os.chmod(path / "home", 0o555)
    try:
        census = list_source(path).census
    finally:
        os.chmod(path / "lost+found", 0o755)
        os.chmod(path / "home", 0o755)
    assert census.ignored == {LEFTOVER: 1, BESIDE: 1}
    assert census.names == {LEFTOVER: ["lost+found/"], BESIDE: ["home/"]}


def test_names():
    assert all(is_leftover(name) for name in ("._x", "THUMBS.DB", "Desktop.ini", "a.png~"))
    assert not any(is_leftover(name) for name in ("a.png", "thumbs", "bak", "lost"))
    assert all(is_text(name) for name in ("README", "a.XML", "LICENSE", "n1_boxes.txt"))
    assert not any(is_text(name) for name in ("a.png", "1", "e.npy", "x.zip", "readme.png"))
    assert leftover("a/__MACOSX/b/c") == "a/__MACOSX/"
    assert leftover("a/b/.x") == "a/b/.x"
    assert leftover("a/b/c") is None
    likes = ("val/", "Testing/", "top/test_images/", "val.tar", "ILSVRC2012_val_00000001.JPEG")
    assert all(map(looks_like_test, (*likes, "x-test-00000", "test.txt/", "eval.zip")))
    others = ("tests/", "contest/", "val_annotations.txt", ".test/", "interval.png", "devkit/")
    assert not any(map(looks_like_test, others))


def test_the_line_is_one_line_of_printable_text():
    census = Census(3)
    census.see(5)
    for name in ("a\nb", "\udcff.x", "c", "d"):
        census.ignore(LEFTOVER, name)
    census.hold()
    line = census.line(3, [("x/1.png", "broken"), ("x/2.png", "broken"), ("y", "other")])
    assert line.encode() and "\n" not in line
    assert (
        "8 entries seen = 0 images read + 3 skipped (2 broken: x/1.png, x/2.png; 1 other: y)"
        in line
    )
    assert "4 ignored (4 left behind by systems or editors: a b, ?.x, ...) + 1 archives" in line


def test_an_npz_behind_another_is_refused(tmp_path):
    """`cat a.npz b.npz`: a zip reader finds the last one only."""
    y = np.arange(4) % 2
    out = []
    for seed in (1, 2):
        file = io.BytesIO()
        x = rows(4, 2 + seed, 4, 3)
        np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
        out.append(file.getvalue())
    (tmp_path / "x.npz").write_bytes(out[0] + out[1])
    with pytest.raises(InputError) as caught:
        list_source(tmp_path / "x.npz")
    assert f"{len(out[0])} bytes before" in caught.value.what
