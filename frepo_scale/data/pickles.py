"""Python pickles read without unpickling: nothing in the file is looked up or run.

The opcodes are walked with `pickletools.genops`, and the few that dicts, lists, strings, numbers
and numpy arrays of uint8 consist of are interpreted by hand. The only calls known are those numpy
writes for such an array (and Python 3's way of writing bytes in protocol 2).
"""

import io
import math
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np


class PickledArray:
    """An array of uint8 in a pickle: made by REDUCE, its `value` filled by BUILD."""

    value: np.ndarray | None = None


@dataclass(frozen=True)
class _Name:
    """A name a pickle refers to; it is never looked up."""

    module: str
    name: str


_RECONSTRUCT = {
    _Name(m, "_reconstruct") for m in ("numpy.core.multiarray", "numpy._core.multiarray")
}
_NDARRAY, _DTYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")
_ENCODE = _Name("_codecs", "encode")
_MARK = object()
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}


def _reduce(function: object, given: tuple[Any, ...]) -> object:
    """What `function(*given)` stands for, for the three functions such a file may name."""
    if function in _RECONSTRUCT and given[0] == _NDARRAY:
        return PickledArray()
    if function == _DTYPE and given[0] in ("u1", b"u1"):
        return _DTYPE
    if function == _ENCODE and len(given) == 2 and given[1] == "latin1":
        return given[0].encode("latin1")
    called = f"{function.module}.{function.name}" if isinstance(function, _Name) else "a value"
    raise ValueError(f"it calls {called}")


def _fill(array: object, state: tuple[Any, ...]) -> None:
    """Gives an array its values from numpy's (version, shape, dtype, fortran, bytes)."""
    if array is _DTYPE:  # byte order and the like: nothing for uint8
        return
    if not isinstance(array, PickledArray):
        raise ValueError("it sets the state of something that is no array")
    _, shape, dtype, fortran, values = state
    if isinstance(values, str):  # Python 2 wrote bytes as str
        values = values.encode("latin1")
    plain = isinstance(values, bytes) and all(type(n) is int for n in shape)
    if not plain or dtype is not _DTYPE or fortran or len(values) != math.prod(shape):
        raise ValueError("its array is not uint8 by rows, as many as its shape says")
    array.value = np.frombuffer(bytearray(values), np.uint8).reshape(shape)


def parse_pickle(data: bytes) -> object:
    """The dicts, lists, tuples, strings, numbers and uint8 arrays in a pickle; runs nothing.

    Raises:
      ValueError, IndexError, TypeError, KeyError, AttributeError: anything else is in it, or it
        is cut off.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def to_mark() -> list[Any]:
        at = max(i for i, item in enumerate(stack) if item is _MARK)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    arg: Any
    for opcode, arg, _ in pickletools.genops(io.BytesIO(data)):
        op = opcode.name
        if op in ("PROTO", "FRAME"):
            pass
        elif op == "STOP":
            return stack.pop()
        elif op in _LITERALS:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op == "MARK":
            stack.append(_MARK)
        elif op == "EMPTY_DICT":
            stack.append({})
        elif op == "EMPTY_LIST":
            stack.append([])
        elif op == "EMPTY_TUPLE":
            stack.append(())
        elif op == "TUPLE":
            stack.append(tuple(to_mark()))
        elif op in _TUPLES:
            count = _TUPLES[op]
            stack[-count:] = [tuple(stack[-count:])]
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(arg)] = stack[-1]
        elif op == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(arg)])
        elif op == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif op == "APPENDS":
            items = to_mark()
            stack[-1].extend(items)
        elif op in ("SETITEM", "SETITEMS"):
            items = to_mark() if op == "SETITEMS" else [stack.pop(-2), stack.pop()]
            for key, value in zip(items[::2], items[1::2], strict=True):
                if not isinstance(key, str | bytes):  # a nested tuple may take for ever to hash
                    raise ValueError("a key is no string")
                stack[-1][key.decode("latin1") if isinstance(key, bytes) else key] = value
        elif op == "GLOBAL":
            stack.append(_Name(*str(arg).split(" ", 1)))
        elif op == "STACK_GLOBAL":
            name = stack.pop()
            stack.append(_Name(str(stack.pop()), str(name)))
        elif op == "REDUCE":
            given = stack.pop()
            stack.append(_reduce(stack.pop(), given))
        elif op == "BUILD":
            state = stack.pop()
            _fill(stack[-1], state)
        else:
            raise ValueError(f"it uses {op}")
    raise ValueError("it has no end")
