import gzip
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.idx import IdxFiles, find_idx, read_idx
from frepo_scale.data.sources.listing import Part

QUICK = settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read_idx_set(folder: Path) -> tuple[Part, Part]:
    found = IdxFiles().listing(folder, lambda: None)
    return found.train, found.test


def idx_bytes(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


IMAGES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([0, 2, 1], np.uint8)


def write_set(folder: Path, joint: str = "-", zipped: bool = True) -> None:
    for stem in ("train", "t10k"):
        for kind, array in (("images", IMAGES), ("labels", LABELS)):
            data = idx_bytes(array)
            name = f"{stem}-{kind}{joint}idx{array.ndim}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("joint", "-.")
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_the_four_files(tmp_path: Path, joint: str, zipped: bool) -> None:
    write_set(tmp_path, joint, zipped)
    train, test = read_idx_set(tmp_path)
    for split in (train, test):
        np.testing.assert_array_equal(split.pixels, IMAGES[..., None])
        np.testing.assert_array_equal(split.labels, LABELS)
    assert train.pixels.flags.writeable


def test_an_unpacked_file_goes_before_its_gz(tmp_path: Path) -> None:
    write_set(tmp_path, zipped=True)
    write_set(tmp_path, zipped=False)
    assert all(path.suffix != ".gz" for path in find_idx(tmp_path).values())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"has no t10k-labels-idx1-ubyte"):
        read_idx_set(tmp_path)


def test_counts_must_agree(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx_bytes(LABELS[:2]))
    with pytest.raises(InputError, match=r"train-labels\S* has 2 labels: expected 3"):
        read_idx_set(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends inside its header"),
        (b"\0\0\x08", "ends inside its header"),
        (b"\0\0\x08\x03\0\0", "ends inside its header"),
        (b"\0\0\x0d\x03" + bytes(12), "begins with bytes 00 00 0d 03"),
        (idx_bytes(LABELS), "expected an idx file of uint8 with 3 axes"),
        (idx_bytes(IMAGES[:0]), "which is empty"),
        (idx_bytes(IMAGES)[:-1], "60 values; there are 59"),
        (idx_bytes(IMAGES) + b"x", "60 values; there are more"),
        (gzip.compress(idx_bytes(IMAGES), mtime=0)[:-1], "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_a_wrong_header_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12 + b"abc")  # claims 8e28 bytes
    start = time.monotonic()
    with pytest.raises(InputError, match="there are 3"):
        read_idx(path, 3)
    assert time.monotonic() - start < 1


@QUICK
@given(cut=st.integers(0, 75))
def test_no_cut_goes_unnoticed(tmp_path: Path, cut: int) -> None:
    data = idx_bytes(IMAGES)
    path = tmp_path / "images"
    path.write_bytes(data[:cut])
    with pytest.raises(InputError):
        read_idx(path, 3)
    zipped = gzip.compress(data)
    path.write_bytes(zipped[: cut * len(zipped) // 76])
    with pytest.raises(InputError):
        read_idx(path, 3)


@QUICK
@given(data=st.data(), bit=st.integers(0, 7))
def test_no_flip_goes_unnoticed_where_there_is_a_checksum(
    tmp_path: Path, data: st.DataObject, bit: int
) -> None:
    zipped = bytearray(gzip.compress(idx_bytes(LABELS)))
    zipped[data.draw(st.integers(0, len(zipped) - 1))] ^= 1 << bit
    path = tmp_path / "labels"
    path.write_bytes(zipped)
    try:
        got = read_idx(path, 1)
    except InputError:
        return
    np.testing.assert_array_equal(got, LABELS)


@QUICK
@given(at=st.integers(0, 15), bit=st.integers(0, 7))
def test_no_flip_in_a_plain_header_goes_unnoticed(tmp_path: Path, at: int, bit: int) -> None:
    data = bytearray(idx_bytes(IMAGES))
    data[at] ^= 1 << bit
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read_idx(path, 3)
