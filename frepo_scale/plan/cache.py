"""What compilers said of a step, kept on disk: compiling one for a pod takes minutes.

One JSON file for each program, in `$XDG_CACHE_HOME/frepo-scale/plan` (`~/.cache` without it). Its
name is a hash of the lowered program, the hardware and the versions of JAX and the compiler, so a
change of any of them compiles again.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.parallel.loading import compiled_afresh
from frepo_scale.parallel.mesh import DATA, POOL
from frepo_scale.plan.collectives import BOTH, Collective, collectives
from frepo_scale.plan.compile import Cost, cost_of

_PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
# What compilers say of a program that is too large, and of its size.
_TOO_LARGE = "RESOURCE_EXHAUSTED"
_USED = re.compile(r"[Uu]sed ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_EVERY = 30.0  # seconds between lines of a compilation
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Compiled(NamedTuple):
    """What a compiler said of a step.

    Attributes:
      cost: memory and operations of one device; None if the compiler refused it for its size.
      collectives: of the module.
      needed: bytes that a refused program needs, where the compiler says it; else 0.
      cached: whether it was compiled earlier.
    """

    cost: Cost | None
    collectives: list[Collective]
    needed: float
    cached: bool


def cache_folder() -> Path | None:
    """The folder of the files; None where the user has no home, and nothing is kept.

    The XDG specification ignores a relative `XDG_CACHE_HOME`.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # neither HOME nor an entry of the user in the password database
            return None
    return base / "frepo-scale" / "plan"


def compiled_step(
    lowered: jax.stages.Lowered,
    hardware: str,
    pool: int,
    data: int,
    say: Callable[[str], None],
    keep: Callable[[jax.stages.Compiled], None] | None = None,
) -> Compiled:
    """Compiles a step, or reads what an earlier compilation said.

    Args:
      lowered: the step.
      hardware: its name.
      pool: size of the mesh axis "pool".
      data: size of the mesh axis "data".
      say: called with one line before a compilation, and with one every half minute of it.
      keep: called with the program; what an earlier compilation said is then not read.
    """
    folder = cache_folder()
    path = None if folder is None else folder / f"{_key(lowered, hardware)}.json"
    found = _read(path) if keep is None and path is not None else None
    if found is not None:
        return found
    say(f"compiling for {hardware}; this takes minutes, the result is kept")
    try:
        with _shown(hardware, say):
            program = lowered.compile() if keep is None else compiled_afresh(lowered)
    except jax.errors.JaxRuntimeError as error:
        if _TOO_LARGE not in str(error):
            raise
        size = _USED.search(str(error))
        needed = float(size[1]) * _UNITS[size[2]] if size else 0.0
        result = Compiled(None, [], needed, False)
    else:
        sizes = {POOL: pool, DATA: data, BOTH: pool * data}
        # Over an axis of one device nothing is sent.
        module = [
            one
            for one in collectives(str(program.as_text()), pool, data)
            if sizes.get(one.axis, 2) > 1
        ]
        result = Compiled(cost_of(program), module, 0.0, False)
        if keep is not None:
            keep(program)
    if path is not None:
        _write(path, result)
    return result


@contextlib.contextmanager
def _shown(hardware: str, say: Callable[[str], None]) -> Iterator[None]:
    """Says every half minute for how long something has been compiled."""
    began, ended = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not ended.wait(_EVERY):
            say(f"still compiling for {hardware}, {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _key(lowered: jax.stages.Lowered, hardware: str) -> str:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} -")
    text = "\n".join([hardware, *versions, lowered.as_text()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> Compiled | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        cost = None if content["cost"] is None else _cost(**content["cost"])
        found = [_collective(**one) for one in content["collectives"]]
        return Compiled(cost, found, _size(content["needed"]), True)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # no file, or one that cannot be used


def _cost(arguments: Any, temporary: Any, operations: Any, code: Any = 0) -> Cost:
    # Operations are NaN where a compiler does not report them. Files of earlier versions count the
    # code among what is temporary.
    held, largest, program = (int(_size(size)) for size in (arguments, temporary, code))
    return Cost(held, largest, float(operations), program)


def _collective(kind: Any, axis: Any, bytes: Any) -> Collective:
    if not (isinstance(kind, str) and isinstance(axis, str)):
        raise TypeError(f"not the name of a collective and of its axis: {kind!r}, {axis!r}")
    return Collective(kind, axis, int(_size(bytes)))


def _size(number: Any) -> float:
    if isinstance(number, bool | str) or not 0 <= number < math.inf:
        raise ValueError(f"not a number of bytes: {number!r}")
    return number


def _write(path: Path, result: Compiled) -> None:
    content = {
        "cost": None if result.cost is None else result.cost._asdict(),
        "collectives": [one._asdict() for one in result.collectives],
        "needed": result.needed,
    }
    try:
        with whole_file(path) as file:
            file.write(json.dumps(content).encode())
    except InputError:  # a folder that cannot be written: the next plan compiles again
        return
