"""Errors against a reference in float64 on the CPU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def error(ours: Any, truth: Any) -> float:
    """Largest difference relative to the largest value; NaN if anything is not finite."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    return float(np.abs(ours - truth).max() / np.abs(truth).max())


def row(ours: Any, truth: Any, bound: float | None = None) -> dict[str, Any]:
    """An error with its bound."""
    found = error(ours, truth)
    if bound is None:
        return {"error": found}
    return {"error": found, "bound": bound, "ok": bool(found <= bound)}


def wide(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function on the CPU with its arguments in float64, NumPy arrays in a pytree."""

    def widen(x: Any) -> Any:
        x = np.asarray(x)
        return jnp.asarray(x, np.float64) if np.issubdtype(x.dtype, np.floating) else jnp.asarray(x)

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return jax.tree.map(np.asarray, jax.jit(function)(*jax.tree.map(widen, arguments)))
