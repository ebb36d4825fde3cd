"""The whitening of a prepared set is fitted once, and again only if necessary."""

import dataclasses

import numpy as np
import pytest

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.description import WHITENING, read_description
from frepo_scale.data.prepare import finish
from frepo_scale.data.prepare.fit import fit_whitening
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.output import OutputFolder
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.ops.preemption import Preemption


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A set in colour with more images than pixels, and the task that fitted it."""
    x = np.random.default_rng(0).integers(0, 256, (300, 6, 6, 3)).astype(np.uint8)
    y = np.arange(300) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    tasks = []

    def noted(task, report):
        tasks.append(task)
        return fit_whitening(task, report)

    monkeypatch.setattr(finish, "fit_whitening", noted)
    monkeypatch.setattr(OutputFolder, "clean", lambda self: None)  # the moments stay
    config = PrepareConfig(tmp_path / "x.npz", tmp_path / "out", 6, workers=1)
    prepare(config, Preemption())
    return tasks[0]


def test_a_run_reads_it_and_it_equals_fitting_anew(made, monkeypatch):
    dataset = load_dataset(DataConfig("npz", str(made.result.parent), batch=8))

    def eigenvectors(*arguments):
        raise AssertionError("eigenvectors were computed by a run")

    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "eigh", eigenvectors)
        kept = dataset.fit_preprocessing().arrays()
    assert dataset.fitted
    anew = fit_preprocessing(everything(dataset.train), True).arrays()
    assert kept.keys() == anew.keys()
    for name, value in anew.items():
        np.testing.assert_allclose(kept[name], value, rtol=1e-5, atol=1e-5)


def test_it_is_fitted_again_only_if_it_is_damaged_or_of_other_moments(made, monkeypatch):
    path = made.result
    good, stamp = path.read_bytes(), path.stat().st_mtime_ns
    fit_whitening(made, lambda images: None)
    assert path.stat().st_mtime_ns == stamp
    for bad in (good[:-9], good[:700] + bytes([good[700] ^ 4]) + good[701:], b""):
        path.write_bytes(bad)
        fit_whitening(made, lambda images: None)
        assert path.read_bytes() == good
    other = dataclasses.replace(made, identity="other")
    fit_whitening(other, lambda images: None)
    assert path.read_bytes() != good


def test_grey_sets_have_none(tmp_path, run):
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
    y = np.arange(40) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])
    files = run(tmp_path / "x.npz", tmp_path / "out", resolution=6)
    assert WHITENING not in files and read_description(tmp_path / "out").fitted is None
