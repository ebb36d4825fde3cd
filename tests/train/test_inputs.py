"""What is transferred to the devices from memory: pixels, or whitened net inputs."""

import numpy as np
import pytest

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.train.inputs import Inputs


@pytest.mark.parametrize("whiten", [False, True])
def test_only_what_is_whitened_becomes_float_in_memory(whiten):
    dataset = load_dataset(DataConfig("digits", batch=10))
    assert dataset.placement == "memory"
    preprocessing = fit_preprocessing(everything(dataset.train), whiten)
    inputs = Inputs(dataset, preprocessing, single_device_mesh())
    feed = inputs.feed(batch=10, seed=0, workers=0)
    rows = np.arange(5)
    assert feed.images.at(rows).dtype == (np.float32 if whiten else np.uint8)
    assert (feed.constants is None) == whiten
    want = preprocessing.apply(dataset.train.at(rows))
    np.testing.assert_allclose(inputs.train.at(rows), want, rtol=1e-5, atol=1e-5)
