import contextlib
import io
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.data.sources.pickles import parse_pickle

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)
# As Python 2 and numpy 1 wrote it.
PYTHON2 = (
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x01K\x02eU\x04dataq\x04"
    b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01b\x87Rq\x08"
    b"(K\x01K\x03K\x04\x86cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x0c" + ARRAY.tobytes() + b"tbh\x02h\x03u."
)
# None where the array's dtype stands.
UNTYPED = PYTHON2.split(b"cnumpy\ndtype")[0] + b"N\x89" + PYTHON2.split(b"tb\x89")[1]


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("protocol", [1, 2, 3, 4])
def test_reads_what_pickle_writes(protocol: int) -> None:
    value = {
        "labels": [1, 300, -5],
        "data": ARRAY,
        "n": (None, 3, ()),
        "one": [7],
        "e": [],
        "x": {},
    }
    got = parse_pickle(pickle.dumps(value, protocol))
    assert isinstance(got, dict) and got.keys() == value.keys()
    for key, item in value.items():
        assert plain(got[key]) == (ARRAY.tolist() if item is ARRAY else item)


@pytest.mark.parametrize("value", [[1], 1, "x", {1: 2}, {(1, 2): 3}])
def test_only_dicts_with_string_keys_are_batches(value: object) -> None:
    with pytest.raises(ValueError):
        parse_pickle(pickle.dumps(value, 2))


def test_a_huge_memo_index_allocates_nothing() -> None:
    with pytest.raises(ValueError):
        parse_pickle(b"\x80\x02}r\xff\xff\xff\x7f.")


def test_reads_what_python_2_wrote() -> None:
    got = parse_pickle(PYTHON2)
    assert isinstance(got, dict)
    assert got["labels"] == [1, 2] and plain(got["data"]) == ARRAY.tolist()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_run(protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError):
        parse_pickle(pickle.dumps({"data": Evil()}, protocol))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "value",
    [
        ARRAY.astype(np.int32),
        np.asfortranarray(ARRAY),
        np.array([[None]]),
        np.zeros((0, 3), np.uint8),
        {3},
        np.float64(1),
        range(3),
    ],
)
def test_what_no_batch_holds_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        parse_pickle(pickle.dumps({"data": value}, 2))


@pytest.mark.parametrize(
    "data",
    [
        PYTHON2.replace(b"K\x03K\x04\x86", b"K\x05K\x04\x86"),  # shape larger than the data
        PYTHON2.replace(b"K\x03K\x04\x86", b"J\xff\xff\xff\xffK\x04\x86"),
        UNTYPED,
        PYTHON2.replace(b"_reconstruct", b"_reconstrukt"),
        PYTHON2.replace(b"cnumpy\ndtype", b"cnumpy\nlinspa"),
        PYTHON2.replace(b"U\x02u1", b"U\x02i4"),
        PYTHON2[:-1],
        b"",
        b".",
        b"t.",
        b"}b.",
        b"]Nb.",
        b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-8\x86R.",
    ],
)
def test_damaged(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_pickle(data)


@settings(max_examples=300, deadline=2000)
@given(st.integers(0, len(PYTHON2) - 1), st.integers(0, 255))
def test_any_byte_changed_is_refused_or_read(at: int, byte: int) -> None:
    data = bytearray(PYTHON2)
    data[at] = byte
    with contextlib.suppress(ValueError):
        parse_pickle(bytes(data))


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_pickle(b"\x80\x02" + data)


def test_the_python_2_bytes_are_a_pickle() -> None:
    pickletools.dis(PYTHON2, out=io.StringIO())
