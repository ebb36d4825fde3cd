"""Every form of source has the same listing and gives the same records."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.registry import list_source


def read(listing, part):
    """Label and bytes of every image by name."""
    found = {}
    for row, name in enumerate(part.names):
        with open(part.paths[part.files[row]], "rb") as file:
            file.seek(part.offsets[row])
            found[name] = (int(part.labels[row]), file.read(part.sizes[row]))
    return found


def test_folder_tar_and_archives_hold_the_same(tmp_path, images):
    files = images.pictures(3, 2)
    folder = images.write(tmp_path / "f", files)
    tar = tmp_path / "x.tar"
    tar.write_bytes(images.tar_of({f"top/{name}": data for name, data in files.items()}))
    inner = {
        f"{w}.tar": images.tar_of(
            {name.split("/")[2]: d for name, d in files.items() if name.startswith(f"train/{w}")}
        )
        for w in reversed(images.wnids)  # classes are sorted, in any order of storage
    }
    archives = images.write(
        tmp_path / "a",
        {
            "ILSVRC2012_img_train.tar": images.tar_of(inner),
            "ILSVRC2012_img_val.tar": images.tar_of(
                {n.removeprefix("test/"): d for n, d in files.items() if n.startswith("test/")}
            ),
        },
    )
    listed = [list_source(source) for source in (folder, tar, archives)]
    for listing in listed:
        assert listing.wnids == listing.class_names == images.wnids
        for part, label_of in ((listing.train, "train"), (listing.test, "test")):
            want = {
                name.removeprefix(f"{label_of}/"): (images.wnids.index(name.split("/")[1]), data)
                for name, data in files.items()
                if name.startswith(label_of)
            }
            assert read(listing, part) == want
        assert listing.train.shuffled().names == listed[0].train.shuffled().names
        assert listing.fingerprint() == listed[0].fingerprint()


def test_the_shuffle_mixes_classes_and_is_pinned(images, tmp_path):
    listing = list_source(images.write(tmp_path / "f", images.pictures(40, 0)))
    labels = listing.train.shuffled().labels
    assert np.bincount(labels[:60]).min() > 10
    assert listing.train.shuffled().names[0] == "n01443537/n01443537_10.JPEG"
    assert listing.notes == ("no test part with classes: the set has training images only",)


@pytest.mark.parametrize("part", ["val", "validation", "valid", "test"])
def test_names_of_the_test_part(tmp_path, images, part):
    files = {n.replace("test/", f"{part}/"): d for n, d in images.pictures(1, 1).items()}
    assert len(list_source(images.write(tmp_path / "f", files)).test) == 3


def test_compressed_tar_and_npz_are_copied(tmp_path, images, run):
    files = images.pictures(5, 1)
    plain, zipped = tmp_path / "p.tar", tmp_path / "p.tar.gz"
    plain.write_bytes(images.tar_of(files))
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    first, second = run(plain, tmp_path / "o1", name="x"), run(zipped, tmp_path / "o2", name="x")
    assert {n: d for n, d in first.items() if n != "dataset.json"} == {
        n: d for n, d in second.items() if n != "dataset.json"
    }
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(30) % 3, x_test=x[:0], y_test=[0][:0])
    with pytest.raises(InputError):  # y_test is of floats
        run(tmp_path / "a.npz", tmp_path / "o3")
    y = np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    run(tmp_path / "a.npz", tmp_path / "o3")
    found = PreparedSet.open(tmp_path / "o3", verify=True)
    got, labels = found.train.read(range(30))
    assert sorted(map(bytes, got)) == sorted(map(bytes, x))
    for image, label in zip(got, labels, strict=True):
        assert y[next(i for i in range(30) if (x[i] == image).all())] == label
    assert len(found.test) == 6 and found.description.channels == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, i: p / "gone", "does not exist"),
        (lambda p, i: i.write(p / "e", {"x.txt": b"x"}), "no known form"),
        (lambda p, i: i.write(p / "e", {"x.tar": b"x", "y.tar": b"y"}), "several archives"),
        (lambda p, i: i.write(p / "e", {"a.tar": b"x" * 600}) / "a.tar", "cannot be read"),
        (lambda p, i: i.write(p / "e", i.pictures(1, 0, ("a",))), "1 class"),
        (
            lambda p, i: i.write(p / "e", i.pictures(1, 1) | {"test/new/1.JPEG": i.encoded(0)}),
            "class new of test/",
        ),
    ],
)
def test_what_is_no_source(tmp_path, images, make, message):
    with pytest.raises(InputError, match=message):
        list_source(make(tmp_path, images))


def test_an_empty_class(tmp_path, images):
    source = images.write(tmp_path / "f", images.pictures(1, 1))
    (source / "train" / "zzz").mkdir()
    with pytest.raises(InputError, match=r"zzz .* holds no image"):
        list_source(source)


def test_labels_of_an_npz(tmp_path):
    x = np.zeros((4, 2, 2, 3), np.uint8)
    for labels, message in (
        ([0, 1, -1, 1], "label -1"),
        ([0, 2, 2, 0], "class 1 has no training image"),
        ([0, 1, 2**40, 1], "largest label"),
    ):
        y = np.array(labels)
        np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
        with pytest.raises(InputError, match=message):
            list_source(tmp_path / "x.npz")


def test_names_that_are_no_utf8(tmp_path, images):
    files = {f"train/{name}/{i}.JPEG": images.encoded(i) for name in "äb" for i in range(2)}
    source = images.write(tmp_path / "f", files)
    os.rename(source / "train/ä/0.JPEG", os.fsencode(source / "train/ä") + b"/\xff.JPEG")
    listing = list_source(source)
    assert listing.class_names == ("b", "ä") and len(listing.fingerprint()) == 64
    assert "ä/\udcff.JPEG" in listing.train.shuffled().names


@settings(
    max_examples=80, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_to_a_tar_of_class_folders_changes_no_label(tmp_path, images, data):
    """Damage is refused, or no image has the bytes of an image of another class."""
    files = {
        f"train/{w}/{i}.JPEG": images.encoded(10 * k + i, "PNG")
        for k, w in enumerate("abc")
        for i in range(2)
    }
    source = tmp_path / "x.tar"
    source.write_bytes(images.damaged(data, images.tar_of(files), ("cut", "flip", "exchange")))
    try:
        listing = list_source(source)
    except InputError:
        return
    originals = {name.removeprefix("train/"): content for name, content in files.items()}
    assert not images.misplaced(listing, originals) and len(listing.train) <= 6
