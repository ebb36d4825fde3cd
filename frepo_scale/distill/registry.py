"""Constructs the `Algorithm` that a recipe names."""

import inspect
from dataclasses import dataclass
from typing import Any

from frepo_scale.core.dotted import import_class
from frepo_scale.core.errors import InputError, nearest
from frepo_scale.core.settings import check_settings, setting
from frepo_scale.distill.algorithm import Algorithm, Problem
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.rcig import RCIG

ALGORITHMS: dict[str, type[Algorithm]] = {"frepo": FRePo, "rcig": RCIG}


@dataclass(frozen=True)
class AlgorithmConfig:
    """The choice of the algorithm."""

    name: str = setting(
        "frepo", "ALGORITHM", "frepo, rcig, or the dotted path of an Algorithm class of your own"
    )
    args: dict[str, Any] = setting(
        {}, "ALGORITHM_ARGS", "further arguments of the algorithm's constructor, by name"
    )

    def __post_init__(self) -> None:
        """Raises InputError for a name that cannot be an algorithm."""
        check_settings(self)
        for name in self.args:
            if not isinstance(name, str):
                raise InputError(f"ALGORITHM_ARGS has {name!r}", "names of arguments, in quotes")
        if "." not in self.name and self.name not in ALGORITHMS:
            raise InputError(
                f"ALGORITHM = {self.name!r}",
                "the name of an algorithm or the dotted path of a class",
                nearest(self.name, ALGORITHMS),
            )


def algorithm_class(config: AlgorithmConfig) -> type[Algorithm]:
    """The class that a recipe names.

    Raises:
      InputError: it cannot be imported, is no algorithm, or does not accept `config.args`.
    """
    cls = ALGORITHMS.get(config.name)
    if cls is None:
        cls = import_class("ALGORITHM", config.name, Algorithm)  # type: ignore[type-abstract]
    _check_args(config, cls)
    return cls


def build_algorithm(config: AlgorithmConfig, problem: Problem) -> Algorithm:
    """The algorithm on a problem.

    Raises:
      InputError: see `algorithm_class`, or the class cannot be constructed.
    """
    cls = algorithm_class(config)
    try:
        return cls(problem, **config.args)
    except InputError:
        raise
    except Exception as error:  # a user's class can fail in any way
        raise InputError(
            f"ALGORITHM = {config.name!r} cannot be constructed ({error})",
            "a class with all methods of Algorithm, and ALGORITHM_ARGS that it accepts",
            "see docs/how-to/algorithm.md",
        ) from error


def _check_args(config: AlgorithmConfig, cls: type[Algorithm]) -> None:
    """Raises InputError for arguments that the class does not have."""
    accepted = inspect.signature(cls).parameters
    unknown = [str(name) for name in config.args if name not in accepted or name == "problem"]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    if unknown and not takes_any:
        known = [name for name in accepted if name != "problem"]
        raise InputError(
            f"ALGORITHM_ARGS has {unknown[0]!r}",
            f"arguments of {config.name}",
            nearest(unknown[0], known) if known else "it has none: use ALGORITHM_ARGS={}",
        )
