"""Random images have the shape, classes and whitening of the data set they replace."""

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig


@pytest.mark.parametrize(("name", "shape"), [("cifar10", (32, 32, 3)), ("mnist", (28, 28, 1))])
def test_it_looks_like_the_set(name, shape):
    found = load_dataset(DataConfig(name, "nowhere", images="noise"))
    assert found.image_shape == shape and found.num_classes == 10
    assert found.placement == "constant"
    rows = np.array([0, 5, len(found.train) - 1])
    images = found.train.at(rows)
    assert images.shape == (3, *shape) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, found.train.at(rows))
    assert np.bincount(found.train.labels).min() > 1000
    assert len(found.held_out) and len(found.test)
    assert (found.fit_preprocessing().whitening is not None) == (shape[2] == 3)


def test_a_set_whose_shape_only_its_files_know():
    with pytest.raises(InputError, match=r"DATA_SOURCE = .noise. with DATASET = 'npz'"):
        load_dataset(DataConfig("npz", images="noise", batch=8))
