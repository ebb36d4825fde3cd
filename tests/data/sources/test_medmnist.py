"""The .npz files of MedMNIST."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import damaged, medmnist

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.census import BESIDE, OTHER_TEST
from frepo_scale.data.sources.registry import list_source


@pytest.mark.parametrize("channels", [1, 3])
def test_labels_and_pixels(tmp_path, channels):
    source = medmnist(tmp_path / "pathmnist.npz", channels)
    listing = list_source(source)
    with np.load(source) as arrays:
        for part, name in ((listing.train, "train"), (listing.test, "test")):
            pixels = arrays[f"{name}_images"].reshape(-1, 8, 8, channels)
            np.testing.assert_array_equal(part.pixels, pixels)
            np.testing.assert_array_equal(part.labels, arrays[f"{name}_labels"][:, 0])
    assert listing.form == "MedMNIST" and "4 images of val_images" in listing.notes[0]
    assert listing.census.ignored == {OTHER_TEST: 4, BESIDE: 2}
    assert (listing.census.seen, listing.census.held) == (19 + 6, 4)


def test_several_labels_for_an_image(tmp_path):
    source = medmnist(tmp_path / "chestmnist.npz", train_labels=np.zeros((9, 14), np.uint8))
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "14 labels" in error.value.what and "train_labels" in error.value.fix
    # As the advice says.
    one = np.eye(9, 14, dtype=np.uint8)[:, :1]
    list_source(medmnist(tmp_path / "x.npz", train_labels=one, test_labels=one[:6]))


@pytest.mark.parametrize("name", ["train_labels", "test_images", "test_labels"])
def test_a_missing_array(tmp_path, name):
    with pytest.raises(InputError) as error:
        list_source(medmnist(tmp_path / "x.npz", **{name: None}))
    assert name in error.value.what and "train_images" in error.value.expected


def test_volumes_are_refused(tmp_path):
    source = medmnist(tmp_path / "x.npz", train_images=np.zeros((9, 8, 8, 8), np.uint8))
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "train_images" in error.value.what


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage(tmp_path, data):
    source = tmp_path / "x.npz"
    whole = medmnist(source).read_bytes()
    good = list_source(source)
    bad, cut = damaged(data, whole)
    source.write_bytes(bad)
    try:
        found = list_source(source)
    except InputError:
        return
    assert not cut
    np.testing.assert_array_equal(found.train.pixels, good.train.pixels)
    np.testing.assert_array_equal(found.test.labels, good.test.labels)
