"""What travels to the devices from memory: pixels, or net inputs where they are whitened."""

from dataclasses import fields

import numpy as np
import pytest

from frepo_scale.data.dataset import DataConfig, load_dataset
from frepo_scale.data.types import everything
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.jobs.inputs import Inputs
from frepo_scale.jobs.parts import RunConfig
from frepo_scale.parallel.mesh import single_device_mesh


@pytest.mark.parametrize("whiten", [False, True])
def test_only_what_is_whitened_becomes_float_in_memory(whiten):
    dataset = load_dataset(DataConfig("digits", batch=10))
    assert dataset.placement == "memory"
    preprocessing = fit_preprocessing(everything(dataset.train), whiten)
    inputs = Inputs(dataset, preprocessing, single_device_mesh())
    others = {part.name: part.type() for part in fields(RunConfig) if part.name != "data"}
    feed = inputs.feed(RunConfig(DataConfig("digits", batch=10), **others))
    rows = np.arange(5)
    assert feed.images.at(rows).dtype == (np.float32 if whiten else np.uint8)
    assert (feed.constants is None) == whiten
    want = preprocessing.apply(dataset.train.at(rows))
    np.testing.assert_allclose(inputs.train.at(rows), want, rtol=1e-5, atol=1e-5)
