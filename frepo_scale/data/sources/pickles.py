"""The pickles of published batches, read by an unpickler that calls no function of the file.

A batch is a dict of strings, numbers, lists and arrays. `find_class` maps the four names that
such a file refers to onto stand-ins of this module and refuses any other name.
"""

import io
import math
import pickle
import pickletools
from functools import partial
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
        kind = dtype.kind if isinstance(dtype, _Dtype) else None
        if not plain or kind is None or fortran or len(values) != math.prod(shape) * kind.itemsize:
            raise ValueError("its array is not numbers in C order of the size its shape gives")
        self.value = np.frombuffer(bytearray(values), kind).reshape(shape)


class _Dtype:
    """Stands for a dtype."""

    def __init__(self, allowed: tuple[str, ...], name: str | bytes, *_: object) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if text not in allowed:
            raise ValueError(f"it has an array of {name!r}")
        self.kind = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order and the like."""
        if state[1] in (">", b">"):
            self.kind = self.kind.newbyteorder(">")


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
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    allowed: tuple[str, ...] = ()

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        if (module, name) == ("numpy", "dtype"):
            return partial(_Dtype, self.allowed)
        if (module, name) not in _STAND_INS:
            raise ValueError(f"it refers to {module}.{name}")
        return _STAND_INS[module, name]


def parse_pickle(data: bytes, arrays: tuple[str, ...] = ("u1",)) -> dict[str, Any]:
    """The dict in a pickle; nothing the file names is called.

    Args:
      data: the file.
      arrays: NumPy's names of the dtypes that arrays may have.

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
        unpickler = _Restricted(io.BytesIO(data), encoding="latin1")
        unpickler.allowed = arrays
        value = unpickler.load()
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
