"""The accelerator types of Google Cloud, such as v5litepod-16, as names of TPU slices."""

import re
from collections.abc import Iterator
from math import prod

from frepo_scale.core.errors import InputError
from frepo_scale.plan.chips import CHIPS, Chip

_TYPE = re.compile(r"(v4|v5litepod|v5p|v6e)-([1-9][0-9]{0,4})")
_CUBE = 4
_BELOW_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")


def slice_of(text: str) -> str:
    """The slice that an accelerator type gets unless a topology is asked for; other texts as given.

    The number of a type counts chips, of v4 and v5p cores, two for each chip. Of the shapes with so
    many chips Google Cloud takes the most compact one.

    Args:
      text: such as "v5litepod-16", which is "v5e:4x4", or "v4-32", which is "v4:2x2x4".

    Raises:
      InputError: there is no slice of this size.
    """
    found = _TYPE.fullmatch(text)
    if found is None:
        return text
    family, size = found[1], int(found[2])
    chip = CHIPS["v5e" if family == "v5litepod" else family]
    cores = 1 if chip.shapes else 2
    shapes = [shape for shape in _shapes(chip) if cores * prod(map(int, shape.split("x"))) == size]
    if not shapes:
        sizes = sorted({cores * prod(map(int, shape.split("x"))) for shape in _shapes(chip)})
        near = [n for n in sizes if n < size][-2:] + [n for n in sizes if n > size][:2]
        raise InputError(
            f"{text}: there is no TPU slice of this size",
            f"one that exists, such as {', '.join(f'{family}-{n}' for n in near)}",
        )
    return f"{chip.name}:{min(shapes, key=lambda shape: max(map(int, shape.split('x'))))}"


def _shapes(chip: Chip) -> Iterator[str]:
    if chip.shapes:
        yield from chip.shapes
        return
    yield from _BELOW_A_CUBE
    most = chip.largest // _CUBE**2
    for a in range(_CUBE, most + 1, _CUBE):
        for b in range(a, most + 1, _CUBE):
            for c in range(b, chip.largest // (a * b) + 1, _CUBE):
                yield f"{a}x{b}x{c}"
