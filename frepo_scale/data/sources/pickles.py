"""The pickles of the CIFAR Python batches, read by an unpickler that calls no function of the file.

A batch is a dict of strings, numbers, lists and uint8 arrays. `find_class` maps the four names that
such a file refers to onto stand-ins of this module and refuses any other name.
"""

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")


class _Array:
    """Stands for an array until its state is known."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, values = state  # as `numpy.ndarray.__reduce__` documents
        if isinstance(values, str):  # Python 2 wrote bytes as str
            values = values.encode("latin1")
        plain = isinstance(values, bytes) and all(type(n) is int for n in shape)
        if not plain or not isinstance(dtype, _Dtype) or fortran or len(values) != math.prod(shape):
            raise ValueError("its array is not uint8 in C order of the size its shape gives")
        self.value = np.frombuffer(bytearray(values), np.uint8).reshape(shape)


class _Dtype:
    """Stands for the dtype uint8."""

    def __init__(self, name: str | bytes, align: int, copy: int) -> None:
        if name not in ("u1", b"u1"):
            raise ValueError(f"it has an array of {name!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and the like: nothing for uint8."""


def _reconstruct(subtype: object, shape: object, dtype: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes in protocol 2 as a call of `_codecs.encode`."""
    if encoding != "latin1":
        raise ValueError(f"it uses the encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        if (module, name) not in _STAND_INS:
            raise ValueError(f"it refers to {module}.{name}")
        return _STAND_INS[module, name]


def parse_pickle(data: bytes) -> dict[str, Any]:
    """The dict in a pickle, with uint8 arrays as such; nothing the file names is called.

    Raises:
      ValueError: it is damaged, refers to anything else, or holds no dict with string keys.
    """
    try:
        end: int | None = 0
        for opcode, index, end in pickletools.genops(data):  # noqa: B007  the last is needed
            # The unpickler allocates as many entries as the largest index.
            if opcode.name in _PUTS and int(index or 0) > len(data):
                raise ValueError("its memo index is too large")
        if end != len(data) - 1:
            raise ValueError(f"something follows its end at byte {end}")
        value = _Restricted(io.BytesIO(data), encoding="latin1").load()
    except (
        *(ValueError, IndexError, TypeError, KeyError, AttributeError, EOFError),
        *(pickle.UnpicklingError, OverflowError, MemoryError, RecursionError),
    ) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    if not isinstance(value, dict) or not all(isinstance(key, str | bytes) for key in value):
        raise ValueError("it holds no dict with string keys")
    return {
        key.decode("latin1") if isinstance(key, bytes) else key: (
            item.value if isinstance(item, _Array) else item
        )
        for key, item in value.items()
    }
