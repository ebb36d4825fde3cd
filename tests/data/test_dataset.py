"""The split of a data set into target, held-out and test part."""

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig


def test_digits_in_three_parts():
    found = load_dataset(DataConfig("digits", batch=10))
    assert (len(found.train), len(found.held_out), len(found.test)) == (1372, 70, 355)
    assert found.image_shape == (8, 8, 1)
    assert found.num_classes == 10
    assert not found.whitened
    again = load_dataset(DataConfig("digits", batch=20))
    assert found.fingerprint == again.fingerprint


def write_npz(path, n, seed=0, side=8, channels=3):
    rng = np.random.default_rng(seed)

    def part(n):
        return rng.integers(0, 256, (n, side, side, channels)).astype(np.uint8)

    np.savez(
        path, x_train=part(n), y_train=np.arange(n) % 2, x_test=part(6), y_test=np.arange(6) % 2
    )


def test_own_data_and_the_fingerprint(tmp_path):
    write_npz(tmp_path / "a.npz", 80)
    write_npz(tmp_path / "b.npz", 80, seed=1)
    first, second = (
        load_dataset(DataConfig("npz", str(tmp_path / name), batch=8))
        for name in ("a.npz", "b.npz")
    )
    assert first.whitened
    assert (len(first.train), len(first.held_out)) == (76, 4)
    assert first.fingerprint != second.fingerprint


def test_a_batch_above_the_target_part_is_refused(tmp_path):
    write_npz(tmp_path / "a.npz", 80)
    with pytest.raises(InputError, match=r"BATCH = 77.*76 training images.*--gin\.BATCH=76"):
        load_dataset(DataConfig("npz", str(tmp_path / "a.npz"), batch=77))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "cifar11"},
        {"name": "digits", "batch": 0},
        {"name": "digits", "fit": "stretch"},
        {"name": "digits", "resolution": 0},
        {"name": "digits", "skip_unreadable": -1},
        {"name": "digits", "directory": 3},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(InputError):
        DataConfig(**wrong)
