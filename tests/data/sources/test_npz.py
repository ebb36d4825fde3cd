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


RAMP = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)  # 0 to 255


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (RAMP / 127.5 - 1, RAMP),
        ((RAMP / 127.5 - 1).astype("float16").clip(-1, 1), None),
        (RAMP / 127.5 - 1 + 0.0004, RAMP),
        (RAMP.astype("float32"), RAMP),
        (RAMP.astype("int64"), RAMP),
        (RAMP.astype("uint16") * 257, RAMP),
        (RAMP.astype("int16") - 128, RAMP),
        (RAMP > 99, np.where(RAMP > 99, 255, 0)),
        ((RAMP > 99).astype("uint8"), np.where(RAMP > 99, 255, 0)),
        ((RAMP > 99).astype("int32"), np.where(RAMP > 99, 255, 0)),
        (np.stack([RAMP, RAMP, RAMP, 0 * RAMP], -1), np.stack([RAMP] * 3, -1)),
        (np.stack([RAMP, 0 * RAMP], -1), RAMP),
        (np.stack([RAMP] * 3, 1), np.stack([RAMP] * 3, -1)),
        (np.stack([RAMP] * 4, 1), np.stack([RAMP] * 3, -1)),
        (RAMP[:, None], RAMP),
    ],
)
def test_the_advice_for_pixels_followed_literally_gives_the_pixels(tmp_path, given, want):
    with pytest.raises(InputError) as caught:
        read_npz(save(tmp_path / "x.npz", x_train=given))
    assert "x_train" in caught.value.what
    expression = caught.value.fix.rpartition("save ")[2].partition(", if")[0]
    mended = eval(expression, {"x_train": given, "np": np})
    train, _ = read_npz(save(tmp_path / "x.npz", x_train=mended))
    if want is not None:
        np.testing.assert_array_equal(train.pixels, want.reshape(train.pixels.shape))
    else:  # float16 rounds
        assert abs(train.pixels[..., 0].astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        (RAMP / 50.0, "its values reach from 0 to 5.1"),
        (np.float32(RAMP) - 300, "its values reach from -300 to -45"),
        (np.where(RAMP == 7, np.nan, RAMP), "not finite"),
        (RAMP.reshape(4, 64), "reshape"),
        (np.stack([RAMP] * 5, -1), "one or three"),
    ],
)
def test_no_advice_makes_images_black(tmp_path, given, fix):
    with pytest.raises(InputError) as caught:
        read_npz(save(tmp_path / "x.npz", x_train=given))
    assert fix in caught.value.fix
    assert "astype" not in caught.value.fix


def test_rounding_errors_of_floats_are_no_error(tmp_path):
    x = RAMP / 255
    x[0, 0, 0], x[-1, -1, -1] = -1e-7, 1.0000001
    for array, error in ((x, 0), (x.astype("float32") * np.float32(1.0009), 1)):
        train, _ = read_npz(save(tmp_path / "x.npz", x_train=array))
        assert abs(train.pixels[..., 0].astype(int) - RAMP).max() <= error
    with pytest.raises(InputError, match=r"1\.00"):
        read_npz(save(tmp_path / "x.npz", x_train=x * 1.002))


@pytest.mark.parametrize(
    "given", [Y.astype("float32"), Y.astype(bool), np.eye(2)[Y], np.eye(2, dtype=int)[Y]]
)
def test_the_advice_for_labels_followed_literally_gives_the_labels(tmp_path, given):
    with pytest.raises(InputError) as caught:
        read_npz(save(tmp_path / "x.npz", y_train=given))
    assert "y_train" in caught.value.what
    mended = eval(caught.value.fix.rpartition("save ")[2], {"y_train": given})
    train, _ = read_npz(save(tmp_path / "x.npz", y_train=mended))
    np.testing.assert_array_equal(train.labels, Y)


def test_named_labels_are_numbered_alike_in_both_parts(tmp_path):
    names = np.array(["2", "10"])
    with pytest.raises(InputError) as caught:
        read_npz(save(tmp_path / "x.npz", y_train=names[Y], y_test=names[Y[:2]]))
    given = {"y_train": names[Y], "y_test": names[Y[:2]], "np": np}
    for statement in caught.value.fix.removeprefix("number the names: ").split(" and "):
        exec(statement, given)
    train, test = read_npz(
        save(tmp_path / "x.npz", y_train=given["y_train"], y_test=given["y_test"])
    )
    np.testing.assert_array_equal(train.labels, 1 - Y)
    np.testing.assert_array_equal(test.labels, 1 - Y[:2])


def test_soft_labels_are_not_cut(tmp_path):
    with pytest.raises(InputError) as caught:
        read_npz(save(tmp_path / "x.npz", y_train=Y + 0.5))
    assert "astype" not in caught.value.fix
