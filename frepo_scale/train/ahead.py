"""The outer step as a program that was compiled ahead of time, where there is one for this run."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from frepo_scale.ops.programs import NotUsableError, Stored, stored_programs
from frepo_scale.parallel.loading import CannotLoadError, load
from frepo_scale.parallel.runtime import agree, is_first
from frepo_scale.parallel.share import gathered
from frepo_scale.parallel.target import target_of

FOLDER = "ahead"  # in the folder of compiled programs of a workdir
OUTER_STEP = "outer_step"


def text_sha256(lowered: jax.stages.Lowered) -> str:
    """The sha256 of the text of a lowered function."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def shapes_of(arguments: Any) -> Any:
    """A pytree of arrays as shapes and dtypes alone: texts must not depend on what arrays carry.

    A layout, or whether a type is weak, would make another text of the same function.
    """
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)


def with_program(
    step: Callable[..., Any], folder: Path, mesh: Mesh, *, calls: int = 0
) -> Callable[..., Any]:
    """A jitted function that uses a stored program from its first call on, if there is one for it.

    Collective at once and at its first call. Where a program is not used, process 0 prints one line
    with the reason, and the function is compiled as always. All processes use a program or none.

    Args:
      step: a jitted function, always called with the same shapes and shardings.
      folder: of the programs.
      mesh: the devices of the run.
      calls: as `calls.most_steps` gives it; other than 0: the function is not the stored one.
    """
    found, refused = stored_programs(folder, OUTER_STEP)
    if not agree(len(found) + len(refused)):
        return step
    if calls:
        if is_first():
            print(
                "frepo-scale: the outer step compiled ahead takes one batch per call, and here the"
                " devices hold the images: another program is compiled"
                " (--gin.DATA_PLACEMENT=memory, or stream for a prepared set, loads the stored one)"
            )
        return step
    return _Loading(step, found, refused, mesh)


class _Loading:
    """A function that becomes a stored program, or the jitted function, at its first call."""

    def __init__(
        self, step: Callable[..., Any], found: list[Stored], refused: list[str], mesh: Mesh
    ) -> None:
        self._step, self._found, self._refused, self._mesh = step, found, list(refused), mesh
        self._call: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self._call is None:
            self._call = self._chosen(arguments)
        return self._call(*arguments)

    def _chosen(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        began = time.monotonic()
        program, stored = self._loaded(arguments)
        used = gathered("" if stored is None else stored.sha256)
        if program is None or stored is None or set(used) != {stored.sha256}:
            reasons = "; ".join(self._refused) or "not all processes have the same one"
            _say(f"no program compiled ahead is used: {reasons}; the outer step is compiled")
            return self._step
        seconds = time.monotonic() - began
        _say(f"the outer step was compiled ahead, for {stored.hardware}; loaded in {seconds:.1f} s")
        return program

    def _loaded(
        self, arguments: tuple[Any, ...]
    ) -> tuple[jax.stages.Compiled | None, Stored | None]:
        """The first stored program that can be used."""
        target, lowered = target_of(self._mesh), None
        for stored in self._found:
            try:
                stored.check_target(target)
                if lowered is None:  # takes seconds for a large step
                    lowered = self._step.lower(*shapes_of(arguments))  # type: ignore[attr-defined]
                stored.check_text(text_sha256(lowered))
                return load(lowered, stored.data(), stored.path.parent), stored
            except (NotUsableError, CannotLoadError) as error:
                self._refused.append(f"{stored.hardware}: {error}")
        return None, None


def _say(line: str) -> None:
    if is_first():
        print(f"frepo-scale: {line}", flush=True)
