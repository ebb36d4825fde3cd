"""Type and range checks of configuration values; gin itself checks neither.

Each names the public macro, the value and what would have been right.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

from frepo_scale.core.errors import InputError, nearest

# What people write for True and False.
_BOOLS = {
    **dict.fromkeys(("true", "yes", "on", "1", "1.0"), True),
    **dict.fromkeys(("false", "no", "off", "0", "0.0"), False),
}
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
    number = None if isinstance(value, bool) else _number(value)
    return None if number is None or number != int(number) else int(number)


def _number(value: Any) -> float | None:
    """The finite number that a value such as "2.5" stands for; None if it is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def check_float(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    """Raises InputError unless `value` is a finite number in [low, high] (or (low, high])."""
    ok = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        ok = ok and math.isfinite(value)
    except OverflowError:  # an int beyond every float
        ok = False

    def fits(number: float) -> bool:
        return low <= number <= high and not (open_low and number == low)

    if not ok or not fits(value):
        bound = f"greater than {low}" if open_low else f"of at least {low}"
        upper = "" if high == math.inf else f" and at most {high}"
        meant = _number(value) if isinstance(value, str) else None
        fix = "" if meant is None or not fits(meant) else f"set --gin.{name}={meant!r}"
        raise InputError(f"{name} = {value!r}", f"a number {bound}{upper}", fix)


def check_bool(name: str, value: Any) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool):
        meant = _BOOLS.get(str(value).strip().lower())
        fix = "" if meant is None else f"set --gin.{name}={meant}"
        raise InputError(f"{name} = {value!r}", "True or False", fix)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    names = list(choices)
    if value not in names:
        raise InputError(
            f"{name} = {value!r}", "one of " + ", ".join(names), nearest(str(value), names)
        )


def check_texts(name: str, values: Any) -> tuple[str, ...]:
    """The values as a tuple; raises InputError unless they are a list of non-empty texts."""
    if isinstance(values, list | tuple) and all(isinstance(v, str) and v for v in values):
        return tuple(values)
    given = [values] if isinstance(values, str) and values else []
    fix = f'set --gin.{name}="{given}"' if given else ""
    raise InputError(f"{name} = {values!r}", "a list of texts in quotes", fix)
