"""The accelerator types of Google Cloud, such as v5litepod-16, as names of TPU slices."""

import re
from math import prod

from frepo_scale.core.errors import InputError
from frepo_scale.plan.chips import CHIPS
from frepo_scale.plan.hardware import shapes_of

_TYPE = re.compile(r"(v4|v5litepod|v5p|v6e)-([1-9][0-9]{0,4})")


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
    of_size = {prod(map(int, shape.split("x"))): shape for shape in chip.shapes}
    cores = 1 if of_size else 2
    shape = of_size.get(size)
    if not of_size and size % cores == 0 and size <= cores * chip.largest:
        shape = next(iter(shapes_of(size // cores)), None)
    if shape is None:
        sizes = [cores * chips for chips in of_size or (4, 8, 16, 32, 64, 128)]
        raise InputError(
            f"{text}: there is no TPU slice of this size",
            f"one that exists, such as {', '.join(f'{family}-{n}' for n in sizes)}",
        )
    return f"{chip.name}:{shape}"
