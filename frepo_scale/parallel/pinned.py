"""The options of JAX that a run fixes, because they change what the same seed and settings give."""

import contextlib
import enum
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.runtime import is_first

# `jax_default_matmul_precision` is a setting of the recipe, see `matmul`. Names that the installed
# JAX does not have are skipped.
PINNED: Mapping[str, Any] = MappingProxyType(
    {
        # The numbers that a seed draws.
        "jax_default_prng_impl": "threefry2x32",
        "jax_threefry_partitionable": True,
        "jax_random_seed_offset": 0,
        "jax_high_dynamic_range_gumbel": False,
        "jax_accurate_erf_inv": False,  # the normal distribution is drawn with it
        # The types of numbers.
        "jax_enable_x64": False,
        "jax_explicit_x64_dtypes": "warn",
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
        # The formulas of functions and of gradients.
        "jax_softmax_custom_jvp": False,
        "jax_use_hlo_logistic_lowering": None,
        "jax_use_direct_linearize": True,
        # The mesh chooses the devices.
        "jax_default_device": None,
    }
)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """A context in which every option of `PINNED` has its value, in all threads.

    Process 0 prints one line for each option that had another value. Afterwards the options are as
    before: a caller of the Python functions finds JAX as it was.

    Raises:
      InputError: a context of JAX around the call sets an option for this thread.
    """
    import jax

    # A context of JAX holds for its thread alone: a new thread has the values of the process.
    with ThreadPoolExecutor(1) as other:
        present = other.submit(lambda: dict(jax.config.values)).result()
    with contextlib.ExitStack() as restored:
        for name, value in PINNED.items():
            if name not in present:
                continue
            here = jax.config.values[name]
            if _plain(here) != value and here != present[name]:
                raise InputError(
                    f"{name} = {here!r}, set by a context of JAX around the call",
                    f"{value!r}, which every run has",
                    f"call frepo_scale outside of the context that sets {name}",
                )
            if _plain(present[name]) == value:
                continue
            jax.config.update(name, value)
            restored.callback(jax.config.update, name, present[name])
            if is_first():
                print(
                    f"frepo-scale: {_given(name, present[name])} is not used: a run has {name} ="
                    f" {value!r}",
                    file=sys.stderr,
                )
        yield


def _plain(value: Any) -> Any:
    """A member of an enumeration as the text that sets it."""
    return value.name.lower() if isinstance(value, enum.Enum) else value


def _given(name: str, value: Any) -> str:
    """How an option was set, for people."""
    variable = name.upper()
    if variable in os.environ:
        return f"{variable}={os.environ[variable]} in the environment"
    return f"{name} = {value!r} of the calling program"
