"""The .npz export: what is written is read again, also with numpy alone."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from export.exports import ARRAYS, assert_equal, make, write_as_version_1
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing, Whitening
from frepo_scale.export.folder import write_folder
from frepo_scale.export.formats import FORMAT, Export, read_npz, symmetric_matrix, write_npz

floats = hnp.from_dtype(np.dtype(np.float32), allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
    max_size=3),
    max_leaves=6,
)  # fmt: skip
json_objects = st.dictionaries(st.text(max_size=6), json_values, max_size=3)


@st.composite
def exports(draw: st.DrawFn) -> Export:
    n, size, channels = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from((1, 3))),
    )
    names = draw(
        st.lists(
            st.text(st.characters(exclude_characters="\0"), max_size=8), min_size=1, max_size=4
        )
    )

    def array(*shape: int, elements: st.SearchStrategy = floats) -> np.ndarray:
        return draw(hnp.arrays(np.float32, shape, elements=elements))

    dim = size * size * channels
    whitening = None
    if draw(st.booleans()):
        matrix = symmetric_matrix(array(dim * (dim + 1) // 2))
        whitening = Whitening(array(dim), matrix, array(dim, dim))
    std = array(channels, elements=st.floats(0.125, 8, width=32))
    return Export(
        images=array(n, size, size, channels),
        labels=array(n, len(names)),
        hard_labels=draw(hnp.arrays(np.int32, n, elements=st.integers(0, len(names) - 1))),
        class_names=tuple(names),
        preprocessing=Preprocessing(array(channels), std, whitening),
        evaluation=draw(json_objects),
        provenance=draw(json_objects),
        results=draw(json_objects),
    )


@settings(deadline=None, max_examples=60)
@given(exports())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # to_pixels of values up to 1e38
def test_npz_gives_back_what_was_written(export: Export) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_npz(f"{folder}/a.npz", export)
        assert_equal(read_npz(f"{folder}/a.npz"), export)


def test_npz_can_be_used_with_numpy_alone(tmp_path: Path) -> None:
    export = make()
    write_npz(tmp_path / "a.npz", export)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as npz:
        arrays = dict(npz)
    meta = json.loads(arrays["meta"].item())
    assert meta["format"] == FORMAT
    assert meta["evaluation"] == export.evaluation
    assert meta["provenance"] == export.provenance
    assert meta["results"] == export.results
    assert arrays["class_names"].tolist() == list(export.class_names)
    np.testing.assert_array_equal(arrays["images_uint8"], export.to_pixels(), strict=True)
    # Both directions, as the text in the file says.
    matrix = np.zeros((48, 48), np.float32)
    matrix[np.triu_indices(48)] = arrays["whitening_upper"]
    matrix += np.triu(matrix, 1).T
    flat = arrays["images"].reshape(len(export.images), -1).astype(np.float64)
    normalised = np.linalg.solve(matrix.astype(np.float64), flat.T).T + arrays["whitening_mean"]
    pixels = (
        normalised.reshape(export.images.shape) * arrays["channel_std"] + arrays["channel_mean"]
    )
    assert np.abs(255 * pixels - arrays["images_uint8"]).max() < 0.51
    again = (arrays["images_uint8"] / 255 - arrays["channel_mean"]) / arrays["channel_std"]
    rows = (again.reshape(len(again), -1) - arrays["whitening_mean"]) @ matrix
    np.testing.assert_allclose(rows, flat, atol=1e-3)
    assert meta["preprocessing"]["grids_per_axis"] == 1
    assert sorted(arrays) == sorted([*ARRAYS, "images_uint8", "class_names", "meta"])


def test_npz_of_a_grey_set_has_no_whitening(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", make(channels=1))
    with np.load(tmp_path / "a.npz") as npz:
        assert not [name for name in npz.files if name.startswith("whitening")]
    assert read_npz(tmp_path / "a.npz").preprocessing.whitening is None


def test_the_matrix_is_stored_once(tmp_path: Path) -> None:
    export = make(size=16)
    write_npz(tmp_path / "a.npz", export)
    side = 16 * 16 * 3
    assert (tmp_path / "a.npz").stat().st_size < 1.1 * side * (side + 1) // 2 * 4
    found = read_npz(tmp_path / "a.npz")
    fitted, read = export.preprocessing.whitening, found.preprocessing.whitening
    assert fitted is not None and read is not None and read.inverse is None
    np.testing.assert_array_equal(read.matrix, fitted.matrix)  # to the last bit
    np.testing.assert_allclose(read.invert(found.images), fitted.invert(export.images), atol=1e-3)
    np.testing.assert_array_equal(found.to_pixels(), export.to_pixels())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_the_first_version_is_read(tmp_path: Path, channels: int) -> None:
    export = make(channels=channels)
    write_as_version_1(tmp_path / "a.npz", export)
    assert_equal(read_npz(tmp_path / "a.npz"), dataclasses.replace(export, results={}))


def test_equal_exports_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = make()
    write_npz(tmp_path / "a.npz", export)
    monkeypatch.setattr("time.time", lambda: 2e9)
    turned = dataclasses.replace(
        export,
        images=np.asfortranarray(export.images),
        provenance=dict(reversed(export.provenance.items())),
    )
    write_npz(tmp_path / "b.npz", turned)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_invalid_export_is_not_written(tmp_path: Path) -> None:
    export = make()
    images = export.images.copy()
    images[1, 2, 0, 0] = np.nan
    for write in (write_npz, write_folder):
        with pytest.raises(InputError, match="array images has NaN"):
            write(tmp_path / "a", dataclasses.replace(export, images=images))
        with pytest.raises(InputError, match="array labels is"):
            write(tmp_path / "a", dataclasses.replace(export, labels=export.labels[:, :2]))
        with pytest.raises(ValueError, match="JSON compliant"):
            write(tmp_path / "a", dataclasses.replace(export, evaluation={"x": float("nan")}))
        with pytest.raises(InputError, match=r"array images is \(0, 4, 4, 3\)"):
            write(tmp_path / "a", dataclasses.replace(export, images=images[:0]))
        with pytest.raises(InputError, match=r"array images is \(6, 4, 4, 2\)"):
            write(tmp_path / "a", make(channels=2))
        with pytest.raises(InputError, match="array class_names is"):
            write(tmp_path / "a", dataclasses.replace(export, class_names=()))
    assert os.listdir(tmp_path) == []


def test_npz_failing_in_the_middle_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    before = path.read_bytes()

    def half(file: BinaryIO, **arrays: np.ndarray) -> None:
        file.write(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(InputError, match="No space left"):
        write_npz(path, make(channels=1))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.npz"]
