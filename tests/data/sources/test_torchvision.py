"""MNIST and Fashion-MNIST below a root of torchvision."""

import numpy as np
import pytest
from source_forms import idx_files

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.idx import IdxFiles
from frepo_scale.data.sources.registry import find_source, list_source


def test_one_data_set_in_a_root(tmp_path, images):
    raw = images.write(tmp_path / "MNIST" / "raw", idx_files())
    want = IdxFiles().listing(raw, lambda: None)
    for path in (tmp_path, tmp_path / "MNIST", raw):
        found = list_source(path)
        np.testing.assert_array_equal(found.train.pixels, want.train.pixels)
        np.testing.assert_array_equal(found.test.labels, want.test.labels)
    assert list_source(tmp_path).name == "mnist"


def test_both_data_sets_in_a_root(tmp_path, images):
    for seed, folder in enumerate(("MNIST", "FashionMNIST")):
        images.write(tmp_path / folder / "raw", idx_files(seed))
    for name, folder in (("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")):
        source = find_source(tmp_path, name)
        assert source is not None
        found = source[0].listing(tmp_path, lambda: None)
        want = IdxFiles().listing(tmp_path / folder / "raw", lambda: None)
        np.testing.assert_array_equal(found.train.pixels, want.train.pixels)
    with pytest.raises(InputError) as error:
        list_source(tmp_path)
    assert "mnist and fashion_mnist" in error.value.what


def test_a_missing_file_is_named(tmp_path, images):
    files = idx_files()
    del files["t10k-labels-idx1-ubyte.gz"]
    images.write(tmp_path / "MNIST" / "raw", files)
    with pytest.raises(InputError) as error:
        list_source(tmp_path)
    assert "t10k-labels" in error.value.what
