"""The downsampled ImageNet in batches: .npz, compressed or not, and pickles."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import WNIDS, batches, contents, damaged, write_batch

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.registry import list_source

KINDS = ("npz", "packed", "pickle")


def expected(pixels, name):
    """Label and pixels by name: labels 1, 2, 3 are the WordNet ids in descending order."""
    return {
        f"{WNIDS[2 - i % 3]}/{name}#{i:07}": (2 - i % 3, image.tobytes())
        for i, image in enumerate(pixels[name])
    }


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_pixels(tmp_path, images, kind):
    source, pixels = batches(tmp_path / "b", images, kind)
    listing = list_source(source)
    assert listing.wnids == listing.class_names == WNIDS and listing.fit == "squash"
    want = expected(pixels, "train_data_batch_1") | expected(pixels, "train_data_batch_2")
    assert contents(listing.train) == want
    assert contents(listing.test) == expected(pixels, "val_data")
    assert listing.train.shape == (4, 4, 3) and listing.train.compressed == (kind == "packed")
    assert any("2 of 3 change" in note for note in listing.notes)
    assert any("training batches: 2, images: 9 " in note for note in listing.notes)
    assert listing.census.seen == 12 + 4 and listing.census.held == 4


def test_train_and_val_in_folders(tmp_path, images):
    source, _ = batches(tmp_path / "b", images)
    for name, folder in (("train*", "Imagenet64_train"), ("val*", "Imagenet64_val")):
        (source / folder).mkdir()
        for file in list(source.glob(f"{name}.npz")):
            file.rename(source / folder / file.name)
    listing = list_source(source)
    assert len(listing.train) == 9 and len(listing.test) == 3


def test_without_the_devkits_table_the_classes_are_not_known(tmp_path, images):
    source, _ = batches(tmp_path / "b", images)
    (source / "map_clsloc.txt").unlink()
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "map_clsloc.txt" in error.value.expected and str(source) in error.value.fix


def test_train_and_val_of_different_sizes(tmp_path, images):
    source, _ = batches(tmp_path / "b", images)
    write_batch(source, "val_data", "npz", np.zeros((3, 12), np.uint8), np.array([1, 2, 3]))
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "val_data.npz" in error.value.what


def test_a_batch_is_missing(tmp_path, images):
    source, _ = batches(tmp_path / "b", images)
    (source / "train_data_batch_1.npz").unlink()
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "batches 2" in error.value.what


X, Y = np.zeros((3, 48), np.uint8), np.array([1, 2, 3])


@pytest.mark.parametrize("label", [0, 4])
def test_a_label_that_the_table_does_not_have(tmp_path, images, label):
    source, _ = batches(tmp_path / "b", images)
    write_batch(source, "train_data_batch_2", "npz", X, np.array([1, label, 3]))
    with pytest.raises(InputError) as error:
        list_source(source)
    assert f"label {label} of image 1" in error.value.what and "1 to 3" in error.value.expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (X[:, :47], Y),
        (X[:, :12], Y),  # another side than the other batch
        (X.astype(np.float32), Y),
        (X, Y[:2]),
        (X, Y + 1),  # label 4 of 3
        (X, Y - 1),  # from 0
        (X.reshape(3, 3, 16), Y),
        (X[:0], Y[:0]),
    ],
)
def test_what_is_no_batch(tmp_path, images, kind, data, labels):
    source, _ = batches(tmp_path / "b", images, kind)
    write_batch(source, "train_data_batch_2", kind, data, labels)
    with pytest.raises(InputError) as error:
        list_source(source)
    assert str(source) in error.value.what


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_damage(tmp_path, images, data, kind):
    """Of an .npz every damage is refused or changes nothing; a pickle has no checksum."""
    source = tmp_path / kind
    if not source.exists():
        batches(source, images, kind)
    file = source / ("train_data_batch_1" + ("" if kind == "pickle" else ".npz"))
    whole = file.read_bytes()
    good = contents(list_source(source).train)
    bad, cut = damaged(data, whole)
    file.write_bytes(bad)
    try:
        found = contents(list_source(source).train)
    except InputError:
        return
    finally:
        file.write_bytes(whole)
    assert not cut
    assert len(found) == 9 if kind == "pickle" else found == good
