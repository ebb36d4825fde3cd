"""Type and range checks of configuration values; gin itself checks neither.

Each names the public macro, the value and what would have been right.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

from frepo_scale.core.errors import InputError, nearest

LARGEST_COUNT = 2**31 - 1  # of the int32 counters on the devices


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises InputError unless `value` is an int (not a bool) in [low, high]."""
    ok = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not ok or value < low or (high is not None and value > high):
        upper = "" if high is None else f" and at most {high}"
        meant = _whole_number(value)
        fits = meant is not None and meant >= low and (high is None or meant <= high)
        raise InputError(
            f"{name} = {value!r}",
            f"a whole number of at least {low}{upper}",
            f"set --gin.{name}={meant}" if fits else "",
        )


def _whole_number(value: Any) -> int | None:
    """The whole number that a value such as 1e3 or "2" stands for; None if it is not one."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None


def check_float(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raises InputError unless `value` is a finite number in [low, high] (or (low, high])."""
    ok = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        ok = ok and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        ok = False
    if not ok or value < low or value > high or (open_low and value == low):
        bound = f"greater than {low}" if open_low else f"of at least {low}"
        upper = "" if high == math.inf else f" and at most {high}"
        raise InputError(f"{name} = {value!r}", f"a number {bound}{upper}")


def check_bool(name: str, value: Any) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} = {value!r}", "True or False")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    names = list(choices)
    if value not in names:
        raise InputError(
            f"{name} = {value!r}", "one of " + ", ".join(names), nearest(str(value), names)
        )
