"""Settings declared once: a dataclass field carries its macro, bounds, help and kind.

From this one declaration come the gin binding and its default (`config`), the checks, the table
that `frepo-scale settings` prints, and the split into scientific and operational settings
(`core.identity`).
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from frepo_scale.core.checks import check_bool, check_choice, check_float, check_int
from frepo_scale.core.errors import InputError

_KEY = "setting"
_WORDS = {"str": "a text", "dict": "a dictionary", "list": "a list", "tuple": "a list"}


class Setting(NamedTuple):
    """The declaration of one field.

    Attributes:
      macro: the public name in recipes and after `--gin.`; empty if there is none.
      help: one line for people.
      low: smallest value of a number; None means 0.
      high: largest value of a number.
      above: a number must be greater than this.
      choices: the values a string may have.
    """

    macro: str
    help: str
    low: float | None
    high: float | None
    above: float | None
    choices: tuple[str, ...] | None


def setting(
    default: Any = dataclasses.MISSING,
    macro: str = "",
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
    operational: bool = False,
) -> Any:
    """A dataclass field that is a setting of a run.

    Args:
      default: its value unless a recipe sets it; left out, a recipe must set it. Lists and
        dictionaries are copied for each object.
      macro: the public name, such as "IPC".
      help: one line for people.
      low: smallest value of a number; 0 unless given.
      high: largest value of a number.
      above: a number must be greater than this.
      choices: the values a string may have.
      operational: whether it changes the result of a run by rounding at most.
    """
    options = None if choices is None else tuple(choices)
    declared = Setting(macro, help, low, high, above, options)
    metadata = {_KEY: declared, "operational": operational}
    if isinstance(default, list | dict):
        copied = default
        return dataclasses.field(default_factory=copied.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def class_name(config: Any) -> str:
    """The name under which recipes bind a configuration class: `PoolConfig` is "Pool"."""
    cls = config if isinstance(config, type) else type(config)
    return cls.__name__.removesuffix("Config")


class Declared(NamedTuple):
    """One setting of a configuration class.

    Attributes:
      binding: `Class.field`, as recipes bind it.
      setting: its declaration.
      default: its default; `dataclasses.MISSING` if a recipe must set it.
      operational: whether it changes the result by rounding at most.
      type: the annotated type.
    """

    binding: str
    setting: Setting
    default: Any
    operational: bool
    type: Any


def declared_settings(cls: type) -> Iterator[Declared]:
    """Every setting of a configuration class, in the order of its fields."""
    for field in dataclasses.fields(cls):
        if _KEY in field.metadata:
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            yield Declared(
                f"{class_name(cls)}.{field.name}",
                field.metadata[_KEY],
                default,
                bool(field.metadata.get("operational")),
                field.type,
            )


def check_settings(config: Any) -> None:
    """Checks type and bounds of every setting of a configuration object.

    Raises:
      InputError: a value is wrong; it is named by its macro, or by `Class.field`.
    """
    for declared in declared_settings(type(config)):
        value = getattr(config, declared.binding.partition(".")[2])
        _check(declared.setting.macro or declared.binding, value, declared.type, declared.setting)


def _check(name: str, value: Any, annotation: Any, declared: Setting) -> None:
    kinds = _kinds(annotation)
    if value is None and type(None) in kinds:
        return
    if bool in kinds:
        check_bool(name, value)
    elif int in kinds:
        high = None if declared.high is None else int(declared.high)
        check_int(name, value, int(declared.low or 0), high)
    elif float in kinds:
        _check_float(name, value, declared)
    elif declared.choices is not None:
        check_choice(name, value, declared.choices)
    elif not isinstance(value, tuple(kinds | ({tuple} if list in kinds else set()))):
        expected = " or ".join(sorted({_WORDS.get(kind.__name__, "None") for kind in kinds}))
        raise InputError(f"{name} = {value!r}", expected)


def _check_float(name: str, value: Any, declared: Setting) -> None:
    high = math.inf if declared.high is None else declared.high
    if declared.above is not None:
        check_float(name, value, declared.above, high, open_low=True)
    else:
        check_float(name, value, declared.low or 0.0, high)


def _kinds(annotation: Any) -> set[type]:
    """The plain classes of an annotation: `int | None` is {int, NoneType}."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in _kinds(part)}
    origin = typing.get_origin(annotation)
    return {typing.cast(type, origin or annotation)}


def by_macro(classes: Mapping[str, type]) -> dict[str, Declared]:
    """Public name to its setting, over configuration classes by name."""
    return {
        declared.setting.macro: declared
        for cls in classes.values()
        for declared in declared_settings(cls)
        if declared.setting.macro
    }
