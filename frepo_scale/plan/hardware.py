"""The machines that plans are made for: what `--on v5e:4x4` and `--on h100:4x8` mean."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import gcd, prod

from frepo_scale.core.errors import InputError, nearest
from frepo_scale.plan.chips import CHIPS, Chip

LARGEST = 2**16  # devices
_OF_LARGE_SLICES = 4  # devices of a machine of a TPU slice with several machines
_CUBE = 4  # larger slices of v4 and v5p are of cubes of this side
_BELOW_A_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
# Other names of chips: of Google Cloud, and of cards that are sold with several sizes of memory.
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "a100-80gb": "a100", "h100-80gb": "h100"}
_RING = {2: 16, 3: _CUBE}  # a side of a slice is a ring if it is a multiple of this


@dataclass(frozen=True)
class Hardware:
    """A number of equal devices.

    Attributes:
      name: as given, such as "v5e:4x4".
      chip: the kind of device.
      shape: sides of a TPU slice; (hosts, devices of each) elsewhere.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def devices(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @property
    def hosts(self) -> int:
        """The machines they are in, each with one process of a run."""
        if self.chip.platform == "tpu":
            # v5e and v6e slices of up to 8 devices are one machine, larger ones have machines of 4.
            per_host = (
                self.chip.per_host if self.devices <= self.chip.per_host else _OF_LARGE_SLICES
            )
            return -(-self.devices // per_host)
        return self.shape[0]

    def axis_rate(self, axis: int, stride: int) -> float:
        """Bytes per second that a device sends along a mesh axis.

        Args:
          axis: devices of the axis.
          stride: distance of neighbours on it, in the order of the devices.

        On a TPU slice collectives use the links along every side of the slice that the axis
        covers. GPUs of one host are connected by NVLink. A ring through several hosts leaves each
        of them through the network cards of all its devices at once, so the cards of the devices
        that an axis has in one host add up; NVLink is the limit between them.
        """
        chip = self.chip
        if chip.platform == "tpu":
            return chip.link * _links(self.shape, axis, stride)
        of_host = max(1, gcd(self.shape[-1], axis * stride) // stride)
        return chip.link if of_host == axis else min(chip.link, of_host * chip.network)


def _links(shape: tuple[int, ...], axis: int, stride: int) -> int:
    """ICI links that each device of an axis sends on: two along a side of the slice that is a ring
    and that the axis covers, one along others, where the end of a line has no more.

    Args:
      shape: sides of the slice, that of neighbouring devices first.
      axis: devices of the axis.
      stride: distance of neighbours on it.
    """
    found, ring = 0, _RING[len(shape)]
    for side in shape:
        skipped = gcd(side, stride)  # devices of this side that differ in another axis
        covered = gcd(axis, side // skipped)
        stride, axis = stride // skipped, axis // covered
        if covered > 1:
            found += 2 if covered == side and side % ring == 0 else 1
    return max(1, found)


def parse_hardware(text: str) -> Hardware:
    """The hardware that a text names: chip:AxB[xC] for TPUs, chip:DEVICES or chip:HOSTSxDEVICES.

    Raises:
      InputError: no such chip, or it does not come in this shape.
    """
    found = _parsed(text)
    if found is not None:
        return found
    name = text.partition(":")[0]
    meant = next((guess for guess in _guesses(text.lower()) if _parsed(guess)), "")
    if name in CHIPS:
        raise _wrong_shape(text, CHIPS[name], meant)
    if name.lower() == "cpu":
        raise InputError(f"--on {text}", "cpu alone, which is this machine", "use --on cpu")
    if name.lower() in ("tpu", "gpu"):
        known = [chip.name for chip in CHIPS.values() if chip.platform == name.lower()]
        hint = f"name the kind: {', '.join(known)}"
    else:
        hint = nearest(name, CHIPS)
    raise InputError(
        f"--on {text}: no chip {name!r} is known",
        "such as v5e:4x4, v4:2x2x2, h100:8 (one host) or h100:4x8 (four hosts), or cpu",
        f"use --on {meant}" if meant else hint,
    )


def _parsed(text: str) -> Hardware | None:
    name, _, shape = text.partition(":")
    chip = CHIPS.get(name)
    if chip is None:
        return None
    if chip.platform == "gpu" and not shape:
        shape = "1"
    if not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){0,2}", shape):
        return None
    sides = tuple(int(x) for x in shape.split("x"))
    if not _comes_in(chip, shape, sides):
        return None
    if chip.platform == "gpu" and len(sides) == 1:
        sides = (1, *sides)
    return Hardware(text, chip, sides)


def _guesses(text: str) -> Iterator[str]:
    """What a text in lower case may mean, as Google Cloud and shops write it; not all exist."""
    text = text.replace("\N{MULTIPLICATION SIGN}", "x").replace(" ", "")
    name, _, shape = text.partition(":")
    name = _ALIASES.get(name, name)
    yield f"{name}:{shape}" if shape else name
    sides = [x for x in shape.split("x") if x]
    if sides and all(re.fullmatch("[0-9]{1,5}", x) for x in sides):
        yield f"{name}:{'x'.join(map(str, sorted(map(int, sides))))}"  # 8x4x4, or 08
    # 8xh100, h100x8, v5litepod-16, v4-64, h100:16
    if found := re.fullmatch(r"([0-9]{1,5})x([a-z].*)", text):
        count, name = int(found[1]), found[2]
    elif found := re.fullmatch(r"(.+?)[x:-]([0-9]{1,5})", text):
        count, name = int(found[2]), found[1]
    else:
        return
    chip = CHIPS.get(_ALIASES.get(name, name))
    if chip is None:
        return
    if chip.platform == "gpu":
        hosts = count // chip.per_host
        yield f"{chip.name}:{count}"
        yield f"{chip.name}:{hosts}x{chip.per_host}" if count % chip.per_host == 0 else ""
    elif chip.shapes:
        yield from (f"{chip.name}:{x}" for x in chip.shapes if prod(_numbers(x)) == count)
    else:
        yield from (f"{chip.name}:{x}" for x in shapes_of(count // 2))  # a name counts cores


def _numbers(shape: str) -> list[int]:
    return [int(x) for x in shape.split("x")]


def shapes_of(chips: int) -> list[str]:
    """Slices of v4 and v5p with so many chips, the most compact one first."""
    small = [x for x in _BELOW_A_CUBE if prod(_numbers(x)) == chips]
    sides = combinations_with_replacement(range(_CUBE, 65, _CUBE), 3)
    cubes = sorted((x for x in sides if prod(x) == chips), key=max)
    return [*small, *("x".join(map(str, x)) for x in cubes)]


def _comes_in(chip: Chip, shape: str, sides: tuple[int, ...]) -> bool:
    if chip.shapes:
        return shape in chip.shapes
    if chip.platform == "gpu":
        return len(sides) <= 2 and sides[-1] <= chip.per_host and prod(sides) <= LARGEST
    cubes = len(sides) == 3 and all(side % _CUBE == 0 for side in sides)
    ordered = list(sides) == sorted(sides)
    return shape in _BELOW_A_CUBE or (cubes and ordered and prod(sides) <= chip.largest)


def _wrong_shape(text: str, chip: Chip, meant: str) -> InputError:
    if chip.shapes:
        known, fix = f"one of {', '.join(chip.shapes)}", f"such as --on {chip.name}:4x4"
    elif chip.platform == "gpu":
        known = (
            f"a number of devices, or HOSTSxDEVICES, with at most {chip.per_host} devices of a host"
            f" and {LARGEST} in all"
        )
        fix = f"such as --on {chip.name}:{chip.per_host} or --on {chip.name}:4x{chip.per_host}"
    else:
        known = (
            f"one of {', '.join(_BELOW_A_CUBE)}, or AxBxC of ascending multiples of {_CUBE} with at"
            f" most {chip.largest} devices"
        )
        fix = f"such as --on {chip.name}:4x4x4"
    if meant:
        fix = f"use --on {meant}"
    elif "," in text:
        fix = "give --on once for each hardware"
    return InputError(f"--on {text}: {chip.title} does not come in this shape", known, fix)


def with_devices(hardware: Hardware, devices: int) -> Hardware:
    """The same chip with another number of devices, for scaling: no shape has to exist.

    TPU slices have sides that are as equal as powers of two can be.
    """
    chip = hardware.chip
    name = f"{chip.name}, {devices} devices"
    if chip.platform == "tpu":
        power, dimensions = (devices & -devices).bit_length() - 1, len(hardware.shape)
        sides = [2 ** ((power + side) // dimensions) for side in range(dimensions)]
        return Hardware(name, chip, (*sides[:-1], devices // prod(sides[:-1])))
    of_host = min(devices, hardware.shape[-1])
    return Hardware(name, chip, (-(-devices // of_host), of_host))
