import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.listing import Part
from frepo_scale.data.sources.npz import NpzArrays


def read_npz(path: Path) -> tuple[Part, Part]:
    found = NpzArrays().listing(path, lambda: None)
    return found.train, found.test


X = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
Y = np.array([0, 1, 0, 1])


def arrays(**other: Any) -> dict[str, Any]:
    return {"x_train": X, "y_train": Y, "x_test": X[:2], "y_test": Y[:2]} | other


def save(path: Path, **other: Any) -> Path:
    np.savez_compressed(path, **{k: v for k, v in arrays(**other).items() if v is not None})
    return path


def test_reads_grey_and_colour(tmp_path: Path) -> None:
    train, test = read_npz(save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(train.pixels, X[..., None])
    np.testing.assert_array_equal(test.labels, Y[:2])
    colour = np.asfortranarray(np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3))
    train, _ = read_npz(save(tmp_path / "x.npz", x_train=colour, y_train=Y[:, None]))
    np.testing.assert_array_equal(train.pixels, colour)
    assert train.labels.shape == (4,) and train.pixels.flags.writeable


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_floats_become_bytes(tmp_path: Path, dtype: str) -> None:
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(4, 0)
    train, _ = read_npz(save(tmp_path / "x.npz", x_train=(x / 255).astype(dtype)))
    np.testing.assert_array_equal(train.pixels[..., 0], x)


def test_floats_are_rounded_not_cut(tmp_path: Path) -> None:
    x = (
        np.array([0.0019, 0.0021, 0.4999, 0.5001, 0.9979, 0.9983, 1.0])
        .reshape(1, 1, 7)
        .repeat(4, 0)
    )
    train, _ = read_npz(save(tmp_path / "x.npz", x_train=x))
    assert train.pixels[0, 0, :, 0].tolist() == [0, 1, 127, 128, 254, 255, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 255.0])
def test_floats_out_of_range_are_named(tmp_path: Path, value: float) -> None:
    x = (X / 255).astype(np.float32)
    x[2, 1, 0] = value
    with pytest.raises(InputError, match=r"x_test in .* has \S+ at index \(2, 1, 0, 0\)"):
        read_npz(save(tmp_path / "x.npz", x_test=x))


def test_the_index_counts_from_the_first_image(tmp_path: Path) -> None:
    x = np.zeros((5000, 1, 1), np.float32)
    x[4500] = np.nan
    with pytest.raises(InputError, match=r"nan at index \(4500, 0, 0, 0\)"):
        read_npz(save(tmp_path / "x.npz", x_train=x))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"y_test": None}, r"has no array y_test \(its arrays: x_train, y_train, x_test\)"),
        ({"x_train": X.astype(object)}, "x_train in .* holds object values"),
        ({"x_train": np.array(["a"])}, "x_train in .* holds <U1 values"),
        ({"x_train": X.astype(np.int64)}, "x_train in .* is int64"),
        ({"x_train": X[0]}, r"x_train in .* has shape \(3, 3\)"),
        ({"x_train": np.zeros((4, 3, 8, 8), np.uint8)}, r"shape \(4, 3, 8, 8\).*channels go last"),
        ({"x_train": np.zeros((4, 0, 8, 3), np.uint8)}, r"shape \(4, 0, 8, 3\)"),
        ({"y_train": Y[:3]}, "y_train in .* has 3 labels: expected 4"),
        ({"y_train": Y.astype(float)}, "y_train in .* is float64"),
        ({"y_train": np.eye(4, dtype=int)}, "one-hot"),
    ],
)
def test_bad_arrays(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_npz(save(tmp_path / "x.npz", **other))


def raw_npz(path: Path, header: str, body: bytes, version: bytes = b"\x01\x00") -> Path:
    """An archive whose x_train has any header."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        text = header.encode() + b"\n"
        size = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
        archive.writestr("x_train.npy", b"\x93NUMPY" + version + size + text + body)
    return path


@pytest.mark.parametrize(
    ("shape", "version"),
    [
        ("(99999999999999, 28, 28)", b"\x01\x00"),
        ("(-1, -2, 2)", b"\x02\x00"),
        ("(2, 2, 2)", b"\x01\x00"),
        ("(2, 2, 1)", b"\x09\x00"),
    ],
)
def test_a_wrong_header(tmp_path: Path, shape: str, version: bytes) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
    with pytest.raises(InputError, match=r"x\.npz.*x_train"):
        read_npz(raw_npz(tmp_path / "x.npz", header, b"abcd", version))


def test_a_wrong_size_is_refused_before_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npz")
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02") + 24  # uncompressed size of the first entry in the directory
    data[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    with pytest.raises(InputError, match="x_train claims 2147483647 bytes"):
        read_npz(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", kind) as archive:
        archive.writestr("x_train.npy", b"x")
    with pytest.raises(InputError, match="compression type"):
        read_npz(tmp_path / "x.npz")


def test_no_zip(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="not a zip archive"):
        read_npz(tmp_path / "x.npz")
    with pytest.raises(InputError, match=r"y\.npz cannot be read"):
        read_npz(tmp_path / "y.npz")


def packed() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays())
    return out.getvalue()


PACKED = packed()
QUICK = settings(
    max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(cut=st.integers(0, len(PACKED) - 1))
def test_no_cut_goes_unnoticed(tmp_path: Path, cut: int) -> None:
    (tmp_path / "x.npz").write_bytes(PACKED[:cut])
    with pytest.raises(InputError):
        read_npz(tmp_path / "x.npz")


@QUICK
@given(at=st.integers(0, len(PACKED) - 1), byte=st.integers(0, 255))
def test_no_flip_goes_unnoticed(tmp_path: Path, at: int, byte: int) -> None:
    data = bytearray(PACKED)
    data[at] = byte
    (tmp_path / "x.npz").write_bytes(data)
    try:
        train, test = read_npz(tmp_path / "x.npz")
    except InputError:
        return
    np.testing.assert_array_equal(train.pixels, X[..., None])
    np.testing.assert_array_equal(train.labels, Y)
    np.testing.assert_array_equal(test.labels, Y[:2])
