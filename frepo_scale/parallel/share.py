"""Actions of process 0 for all processes, and its values on all processes.

All functions are collective: every process calls them, in the same order. For a single process
they cost nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from frepo_scale.core.errors import FailedElsewhere, InputError, RunError
from frepo_scale.parallel import runtime
from frepo_scale.parallel.ending import exit_code

_Tree = TypeVar("_Tree")


def on_first(action: Callable[[], None]) -> None:
    """Calls `action` on process 0 only; the others wait for it.

    Raises:
      InputError, RunError: on process 0, what the action raised.
      FailedElsewhere: on the others, if it did.
    """
    code, error = 0, None
    if runtime.is_first():
        try:
            action()
        except (InputError, RunError) as raised:
            error, code = raised, exit_code(raised)
    code = runtime.agree(code)
    if error is not None:
        raise error
    if code:
        raise FailedElsewhere(code)


def on_host(tree: _Tree) -> _Tree:
    """Every array of a pytree as a complete NumPy array on every process."""

    def whole(x: Any) -> np.ndarray:
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    collected: _Tree = jax.tree.map(whole, tree)
    return collected


def of_first(tree: _Tree) -> _Tree:
    """Process 0's arrays on every process; shapes and dtypes must be the same everywhere."""
    if runtime.process_count() == 1:
        return tree
    shared: _Tree = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))
    return shared


def gathered(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    if runtime.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray(len(own), np.int32)))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]
