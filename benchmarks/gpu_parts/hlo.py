"""What a program compiled for a GPU or a CPU consists of, read from its text."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

# Where nothing may be in float64.
NETS = (
    "/frepo_scale/models/",
    "/frepo_scale/distill/features.py",
    "/frepo_scale/distill/pool.py",
    "/flax/",
    "/optax/",
)

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (\(?\w+\[[\d,]*\].*?) ([\w-]+)\(")
_SHAPE = re.compile(r"^\(?(\w+)\[([\d,]*)\]")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_KERNEL = re.compile(r"(^|,)3,3(,|$)")  # dimensions of a 3 x 3 kernel
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_HOST = ("infeed", "outfeed", "send", "recv")


class Counts(NamedTuple):
    """What a compiled program consists of; fused instructions count too.

    Attributes:
      convolutions: cuDNN calls; on CPUs, instructions.
      fusions: fused kernels.
      transposes: of activations: four dimensions, and no kernel of a convolution.
      factorisations: of matrices.
      float64_in_nets: computations on float64 whose source is among `NETS`. (Not: all outside of
        `frepo_scale/regression`, whose backward pass has its caller for a source.)
      host: transfers to or from the host.
      calls: library calls by name.
    """

    convolutions: int
    fusions: int
    transposes: int
    factorisations: int
    float64_in_nets: int
    host: int
    calls: Counter[str]


def counts(text: str) -> Counts:
    """Counts instructions of a module's text, `compiled.as_text()`."""
    kinds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    transposes = in_nets = 0
    nets = frames_of(text, NETS)
    for line in text.splitlines():
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        kinds[found[2]] += 1
        if target := _TARGET.search(line):
            calls[target[1]] += 1
        shape, frame = _SHAPE.match(found[1]), _FRAME.search(line)
        if shape is None:
            continue
        dimensions = shape[2]
        if found[2] == "transpose" and dimensions.count(",") == 3:
            transposes += not _KERNEL.search(dimensions)
        # What the compiler adds by itself has no source.
        if shape[1] == "f64" and frame is not None:
            in_nets += int(frame[1]) in nets
    return Counts(
        sum(number for name, number in calls.items() if "conv" in name) + kinds["convolution"],
        kinds["fusion"],
        transposes,
        sum(number for name, number in calls.items() if "potrf" in name or "cholesky" in name),
        in_nets,
        sum(kinds[name] for name in _HOST),
        calls,
    )


def frames_of(text: str, sources: Sequence[str]) -> set[int]:
    """Numbers of the stack frames, in a module's text, below one of some files or folders."""
    tables: dict[str, dict[int, str]] = {}
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = tables.setdefault(line, {})
        elif tables and (entry := re.match(r"(\d+) (.*)", line)):
            table[int(entry[1])] = entry[2]
        elif len(tables) == 4 and line.strip():
            break  # the instructions begin
    names = tables.get("FileNames", {}).items()
    files = {n for n, name in names if any(source in name for source in sources)}
    here = {n for n, at in tables.get("FileLocations", {}).items() if _id(at, "file_name") in files}
    found: set[int] = set()
    for number, frame in sorted(tables.get("StackFrames", {}).items()):
        parent = _id(frame, "parent_frame") - 1  # printed one higher; 0 is none; below its child
        if _id(frame, "file_location") in here or parent in found:
            found.add(number)
    return found


def _id(entry: str, name: str) -> int:
    found = re.search(rf"{name}_id=(\d+)", entry)
    return int(found[1]) if found else 0
