"""The arguments of `frepo-scale plan`. Imports nothing heavy: `--help` must answer at once."""

import argparse
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from frepo_scale.core.errors import InputError, nearest
from frepo_scale.core.paths import looks_like_url, to_path

# Settings that a search may change where the user names them: they change the algorithm.
MAY_CHANGE = ("MEMBERS", "POOL_SIZE", "FEATURE_DTYPE", "NET_DTYPE")
# Settings of the machine, which a search chooses and `--write` writes.
MACHINE = ("MESH_POOL", "MESH_DATA", "CHUNK")
WRITTEN = ", planned for "  # in the first line of a file that `--write` wrote
_MOST_DEVICES = 2**16
# What a data set may have: a run needs two classes, and reads grey and colour images.
_SIZES = {
    "classes": range(2, 10**6 + 1),
    "resolution": range(1, 2**14 + 1),
    "channels": range(1, 4, 2),
}


class GivenSizes(NamedTuple):
    """What the user says of a data set; None: as the recipe's data set has it.

    Attributes:
      classes: K.
      resolution: side in pixels.
      channels: C.
    """

    classes: int | None = None
    resolution: int | None = None
    channels: int | None = None


@dataclass(frozen=True)
class PlanOptions:
    """The arguments of `frepo-scale plan`.

    Attributes:
      on: the hardware, such as "v5e:4x4"; "cpu" is this machine.
      quick: nothing is compiled.
      best: searches meshes and chunks.
      may_change: settings that change the algorithm and may be searched.
      write: file for the settings of the best plan.
      scale: "A..B": draws scaling over so many devices.
      png: file of that figure; None: `<recipe>_<chip>_scaling.png`.
      json: prints JSON.
      price: of one device for one hour.
      compile: the workdir for the compiled step; None: it is not kept.
      measured: folder with results of `benchmarks/gpu_check.py`.
      given: sizes of the data set.
      overrides: names of the settings given on the command line.
    """

    on: tuple[str, ...]
    quick: bool = False
    best: bool = False
    may_change: tuple[str, ...] = ()
    write: Path | None = None
    scale: str | None = None
    png: Path | None = None
    json: bool = False
    price: float | None = None
    compile: Path | None = None
    measured: Path | None = None
    given: GivenSizes = field(default_factory=GivenSizes)
    overrides: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a .gin file, or the name of one under gin/"
    )
    parser.add_argument(
        "--on",
        action="append",
        required=True,
        metavar="HARDWARE",
        help="v5e:4x4, v4:2x2x2, h100:8 (one host), h100:4x8 (four hosts), ..., or cpu; may be"
        " given several times",
    )
    parser.add_argument(
        "--quick", action="store_true", help="estimate memory from shapes, compile nothing"
    )
    parser.add_argument("--best", action="store_true", help="search for the best mesh and chunk")
    parser.add_argument(
        "--may-change",
        metavar="NAMES",
        help="with --best: also search these of MEMBERS,POOL_SIZE,FEATURE_DTYPE,NET_DTYPE, which"
        " change the algorithm",
    )
    parser.add_argument(
        "--write",
        metavar="FILE.gin",
        help="with --best: write the settings of the best plan, for a recipe to include",
    )
    parser.add_argument("--scale", metavar="A..B", help="draw the time of a step on A to B devices")
    parser.add_argument("--png", metavar="FILE", help="the file for the figure of --scale")
    parser.add_argument("--price", type=float, metavar="X", help="price of one device for one hour")
    parser.add_argument(
        "--compile",
        metavar="WORKDIR",
        help="keep the compiled step in this workdir, where distill on such hardware loads it",
    )
    parser.add_argument(
        "--measured",
        metavar="FOLDER",
        help="results of benchmarks/gpu_check.py on this GPU: print the error of predictions",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON list with a plan for each --on"
    )
    for name, what in (("classes", "K"), ("resolution", "R"), ("channels", "C")):
        parser.add_argument(
            f"--{name}", type=int, metavar=what, help="of a data set whose size is not known"
        )


def options_of(given: argparse.Namespace, overrides: Mapping[str, str]) -> PlanOptions:
    """The arguments as parsed, and the names of the settings given beside them.

    Raises:
      InputError: a text is empty, or the workdir is a URL that no run can use.
    """
    for name in ("may_change", "write", "scale", "png", "compile", "measured"):
        text, option = getattr(given, name), f"--{name.replace('_', '-')}"
        if text is not None and not text.strip(", "):  # a shell variable that is not set
            raise InputError(f"{option} {text!r}", "a value", f"give one, or leave {option} out")
    return PlanOptions(
        on=tuple(given.on),
        quick=given.quick,
        best=given.best,
        may_change=_names(given.may_change or ""),
        write=None if given.write is None else _local("--write", given.write),
        scale=given.scale,
        png=None if given.png is None else _local("--png", given.png),
        json=given.json,
        price=given.price,
        compile=None if given.compile is None else to_path(given.compile),
        measured=None if given.measured is None else _local("--measured", given.measured),
        given=GivenSizes(given.classes, given.resolution, given.channels),
        overrides=tuple(overrides),
    )


def _names(text: str) -> tuple[str, ...]:
    found = (name.strip() for name in text.split(","))
    return tuple(dict.fromkeys(name for name in found if name))


def _local(option: str, text: str) -> Path:
    if looks_like_url(text):
        raise InputError(f"{option} {text}", "a local path", "copy the file afterwards")
    return to_path(text)


def check(options: PlanOptions) -> None:
    """Raises InputError for options that do not go together, before anything is computed."""
    for number, name in enumerate(options.on):
        if name in options.on[:number]:
            raise InputError(f"--on {name} twice", "each hardware once", "leave one out")
    for name in options.may_change:
        if name not in MAY_CHANGE:
            raise InputError(
                f"--may-change {name}",
                f"names out of {', '.join(MAY_CHANGE)}, separated by commas",
                nearest(name, MAY_CHANGE),
            )
        if name in options.overrides:
            raise InputError(
                f"--may-change {name} with --gin.{name}", "one of them", "leave one out"
            )
    if options.price is not None and not (0 <= options.price < math.inf):
        raise InputError(f"--price {options.price}", "a price of at least 0")
    for name, value in options.given._asdict().items():
        sizes = _SIZES[name]
        if value is not None and value not in sizes:
            expected = f"a number of at least {sizes[0]} and at most {sizes[-1]}"
            raise InputError(f"--{name} {value}", "1 or 3" if name == "channels" else expected)
    if options.may_change and not options.best:
        raise InputError("--may-change without --best", "both", "add --best")
    if options.write is not None:
        if not options.best:
            raise InputError("--write without --best", "both", "add --best")
        if len(options.on) > 1:
            raise InputError("--write with several --on", "one hardware", "leave the others out")
        _check_file("--write", options.write, ".gin")
        _check_not_of_others(options.write)
    if options.compile is not None:
        for name, given in (("--quick", options.quick), ("--best", options.best)):
            if given:
                raise InputError(
                    f"--compile with {name}", "one of them", f"leave {name} out of this command"
                )
    _check_figure(options)


def _check_figure(options: PlanOptions) -> None:
    if options.png is not None:
        if options.scale is None:
            raise InputError("--png without --scale", "both", "add --scale, as in --scale 1..1024")
        _check_file("--png", options.png, ".png")
    if options.scale is not None:
        device_counts(options.scale)
        if len(options.on) > 1:
            raise InputError("--scale with several --on", "one hardware", "leave the others out")
        if options.on[0] == "cpu":
            raise InputError("--scale with --on cpu", "TPUs or GPUs", "such as --on v5e:4x4")


def _check_file(option: str, path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise InputError(
            f"{option} {path}", f"a file name that ends in {suffix}, such as x{suffix}"
        )
    folder = path.parent
    try:
        usable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        # A pipe or a device would be replaced by a file.
        usable = usable and (path.is_file() or not path.exists())
    except OSError:  # a name that is too long
        usable = False
    if not usable:
        raise InputError(
            f"{option} {path} cannot be written",
            "a file name in a folder that exists and that you may write to",
        )


def _check_not_of_others(path: Path) -> None:
    """Raises InputError for a file that `--write` did not write: a recipe would be lost."""
    try:
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except FileNotFoundError:
        return
    except OSError:
        first = ""
    if not (first.startswith("# ") and WRITTEN in first):
        raise InputError(
            f"--write {path} exists, and --write did not write it",
            "a new file name, or a file of an earlier --write",
            "choose another name",
        )


def device_counts(text: str) -> list[int]:
    """The powers of two from A to B of a text "A..B".

    Raises:
      InputError: it is not such a text.
    """
    first, _, last = text.partition("..")
    whole = bool(re.fullmatch(r"[0-9]{1,9}\.\.[0-9]{1,9}", text))
    if not whole or not 1 <= int(first) <= int(last) <= _MOST_DEVICES:
        raise InputError(
            f"--scale {text}",
            f"A..B with 1 <= A <= B <= {_MOST_DEVICES}",
            "such as --scale 1..1024",
        )
    counts = [2**k for k in range(_MOST_DEVICES.bit_length()) if int(first) <= 2**k <= int(last)]
    if not counts:
        raise InputError(
            f"--scale {text}: no power of two is in it", "one", f"such as --scale 1..{last}"
        )
    return counts
