"""Makes JAX load a serialised program instead of compiling one.

`jax.experimental.serialize_executable` reads pickles, which can run any code. Here the program is
the data of the runtime (PJRT) alone. Everything around it (types, shardings, donation) comes from
lowering the function again, and the program takes the place of the compiler's result: JAX asks its
compilation cache before it compiles, and for the time of one compilation the answer is ours.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache  # there are no public functions for it
from jax._src.compilation_cache_interface import CacheInterface


class CannotLoadError(Exception):
    """JAX does not load a program; the text says why."""


def compiled_afresh(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The program of a lowered function, compiled and not taken from JAX's compilation cache.

    A program for a CPU that came from the cache can be serialised, but no longer be loaded: the
    data lack its machine code (seen with jaxlib 0.10.2).
    """
    with _options({"jax_enable_compilation_cache": False}):
        return lowered.compile()


def serialised(program: jax.stages.Compiled) -> bytes:
    """A compiled program as the data that its runtime can load.

    Args:
      program: as `compiled_afresh` gives it.

    Raises:
      CannotLoadError: the runtime cannot write it.
    """
    try:
        data: bytes = program.runtime_executable().serialize()  # type: ignore[union-attr]
    except Exception as error:  # errors of runtimes have no common narrower class
        raise CannotLoadError(_first_line(error)) from error
    return data


def load(lowered: jax.stages.Lowered, data: bytes, folder: Path) -> jax.stages.Compiled:
    """The program of a lowered function, from data that `serialised` gave for the same text.

    Args:
      lowered: the function, lowered for the devices of this machine.
      data: the program; it must be trusted, since it is code.
      folder: where the data came from.

    Raises:
      CannotLoadError: the runtime refuses the data, or the compilation cache is switched off.
    """
    answer = _Answer(_module_name(lowered), data, folder)
    try:
        with _answering(answer):
            program = lowered.compile()
    except Exception as error:
        raise CannotLoadError(_first_line(error)) from error
    if not answer.given:
        raise CannotLoadError(
            "JAX's compilation cache is switched off (jax_enable_compilation_cache)"
        )
    return program


def _module_name(lowered: jax.stages.Lowered) -> str:
    """The name of a module, with which JAX's key for it begins: "jit_step"."""
    found = re.match(r"module @(\w+)", lowered.as_text())
    return found[1] if found else ""


class _Answer(CacheInterface):
    """A cache that holds the program of one module, whatever JAX's key for it is."""

    def __init__(self, module: str, data: bytes, folder: Path) -> None:
        self._module, self._path = module, folder
        entry = compilation_cache.combine_executable_and_time(data, 0)
        self._entry = compilation_cache.compress_executable(entry)
        self.given = False

    def get(self, key: str) -> bytes | None:
        # Only to the first question: other threads may compile small programs at the same time.
        if self.given or not key.startswith(f"{self._module}-"):
            return None
        self.given = True
        return self._entry

    def put(self, key: str, value: bytes) -> None:
        del key, value


@contextlib.contextmanager
def _answering(answer: _Answer) -> Iterator[None]:
    """A context in which JAX's compilation cache is `answer`, and errors in it are raised."""
    options = {
        "jax_compilation_cache_dir": os.fspath(answer._path),
        "jax_raise_persistent_cache_errors": True,
    }
    with _options(options):
        compilation_cache._cache = answer
        compilation_cache._cache_initialized = True
        yield


@contextlib.contextmanager
def _options(options: Mapping[str, Any]) -> Iterator[None]:
    """A context with options of JAX's compilation cache; JAX reads them once, so it is reset."""
    before = {name: jax.config.values[name] for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
