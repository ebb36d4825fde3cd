"""The preprocessing of a run: fitted once, stored, fitted again if it is unreadable."""

from types import SimpleNamespace

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing, fit_preprocessing
from frepo_scale.jobs import preprocessing
from frepo_scale.jobs.preprocessing import check_data, stored_preprocessing
from frepo_scale.ops.workdir import Workdir

RNG = np.random.default_rng(0)


class Set(SimpleNamespace):
    """The parts of a data set that are used here; counts how often it is fitted."""

    fingerprint, origin, fits, fitted = "ab" * 32, "here", 0, False

    def fit_preprocessing(self) -> Preprocessing:
        self.fits += 1
        return fit_preprocessing(self.images, self.whitened)


@pytest.fixture
def workdir(tmp_path) -> Workdir:
    return Workdir(tmp_path)


def made(side=4, channels=3, whitened=True) -> Set:
    images = RNG.integers(0, 256, (64, side, side, channels)).astype(np.uint8)
    return Set(images=images, image_shape=images.shape[1:], whitened=whitened)


def test_it_is_fitted_once(workdir):
    data = made()
    first, second = (stored_preprocessing(workdir, data).arrays() for _ in range(2))
    assert data.fits == 1
    assert first.keys() == second.keys() and "whitening_matrix" in first
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no more"])
def test_an_unreadable_file_is_written_again(workdir, damage):
    data = made()
    first = stored_preprocessing(workdir, data)
    workdir.preprocessing.write_bytes(damage)
    second = stored_preprocessing(workdir, data)
    assert data.fits == 2
    np.testing.assert_array_equal(first.whitening.matrix, second.whitening.matrix)


def test_other_data_are_refused(workdir):
    data = made()
    check_data(workdir, data)  # no file yet
    stored_preprocessing(workdir, data)
    check_data(workdir, data)
    data.fingerprint = "cd" * 32
    with pytest.raises(InputError, match=r"abababababab.*cdcdcd"):
        check_data(workdir, data)


def test_a_long_fit_is_announced_once_and_a_short_one_is_not(workdir, monkeypatch, capsys):
    stored_preprocessing(workdir, made())
    assert capsys.readouterr().err == ""
    workdir.preprocessing.unlink()
    monkeypatch.setattr(preprocessing, "_LARGE", 48)
    data = made()
    stored_preprocessing(workdir, data)
    output = capsys.readouterr().err
    assert output.startswith("frepo-scale: whitening: eigenvectors in 48 dimensions")
    assert output.count("\n") == 1
    stored_preprocessing(workdir, data)  # kept
    workdir.preprocessing.unlink()
    stored_preprocessing(workdir, made(channels=1, whitened=False))
    assert capsys.readouterr().err == ""
