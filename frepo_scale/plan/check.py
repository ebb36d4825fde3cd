"""Predicted steps against measured ones: the results of `benchmarks/gpu_check.py`, where given.

The part "fast" of that check times whole outer steps at a few shapes on one GPU and writes
`fast.json`. Here the same steps are predicted; the ratios say how far predictions for this chip are
off. They are of one device, so they say nothing of collectives.
"""

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from frepo_scale.core.errors import InputError
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.models.convnet import ConvNet
from frepo_scale.plan.chips import CHIPS, Chip
from frepo_scale.plan.hardware import Hardware
from frepo_scale.plan.plan import Plan, make_plan
from frepo_scale.plan.subject import Subject
from frepo_scale.regression.ridge import RidgeConfig

FILE = "fast.json"
_NAMED = 2  # words of a name that say maker and model


class MeasuredStep(NamedTuple):
    """An outer step that was timed.

    Attributes:
      name: of the shape and the dtype.
      shape: the fields of a shape of the check: side, channels, depth, width, classes, ipc, flip,
        ridge, batch.
      dtype: of the networks.
      seconds: of one step.
    """

    name: str
    shape: Mapping[str, Any]
    dtype: str
    seconds: float


class Check(NamedTuple):
    """The results of a check.

    Attributes:
      folder: where they are.
      device: what JAX calls the device that was measured.
      steps: all that were timed.
    """

    folder: Path
    device: str
    steps: tuple[MeasuredStep, ...]


def read_check(folder: Path) -> Check:
    """The results in a folder.

    Raises:
      InputError: no readable results of timed steps are there.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        steps = tuple(
            MeasuredStep(f"{name} {dtype}", dict(shape), dtype, _seconds(row["seconds"]))
            for name, shape in found["shapes"].items()
            for dtype in ("float32", "bfloat16")
            if (row := found["steps"].get(f"{name} {dtype}", {})).get("seconds")
        )
        check = Check(folder, str(found["device"]), steps)
        for step in steps:
            _predicted(step, CHIPS["h100"])  # any chip: wrong shapes are found
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder, f"{type(error).__name__}: {error}") from error
    except (ZeroDivisionError, RecursionError) as error:  # a net without features; deep lists
        raise _unreadable(folder, type(error).__name__) from error
    if not steps:
        raise InputError(
            f"--measured {folder}: no step was timed",
            "results of the part fast",
            "python benchmarks/gpu_check.py --parts facts,fast --out FOLDER",
        )
    return check


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise ValueError(f"seconds = {value!r}")
    return float(value)


def _unreadable(folder: Path, why: str) -> InputError:
    return InputError(
        f"--measured {folder}: {FILE} cannot be read: {why}",
        "the folder that benchmarks/gpu_check.py --out wrote its results to",
    )


def factors(check: Check, chip: Chip) -> dict[str, float]:
    """Measured by predicted seconds of each step; empty if another device was measured."""
    # Whole words: an "NVIDIA L40S" is no "NVIDIA L4". What JAX calls a device may be longer or
    # shorter than its title, but names its maker and its model.
    given, known = check.device.split(), chip.title.split()
    common = min(len(given), len(known))
    if common < _NAMED or given[:common] != known[:common]:
        return {}
    return {step.name: step.seconds / _predicted(step, chip) for step in check.steps}


def _predicted(step: MeasuredStep, chip: Chip) -> float:
    one = Hardware(chip.name, chip, (1, 1))
    return make_plan(_subject(step), one, 1, 1).ideal_seconds


def line(check: Check, found: Mapping[str, float], plan: Plan) -> str:
    """What the factors say of a plan, for people."""
    if not found:
        return f"{check.folder}: measured on {check.device}, which says nothing of this hardware"
    low, high, middle = min(found.values()), max(found.values()), statistics.median(found.values())
    return (
        f"{check.folder}: on {check.device}, {len(found)} measured steps took {low:.2f} to"
        f" {high:.2f} times their prediction at peak rates, {middle:.2f} in the median; with that"
        f" factor this run takes {middle * plan.subject.steps * plan.ideal_seconds / 3600:.1f} h"
    )


def _subject(step: MeasuredStep) -> Subject:
    """FRePo with the settings of the check (`gpu_parts.step_case.problem_of`)."""
    shape, dtype = step.shape, step.dtype
    classes, batch = int(shape["classes"]), int(shape["batch"])
    net = ConvNet(num_classes=classes, width=shape["width"], depth=shape["depth"])
    config = DistillConfig(ipc=shape["ipc"], flip=shape["flip"], feature_dtype=dtype)
    pool, ridge = PoolConfig(dtype=dtype), RidgeConfig(shape["ridge"])
    size = classes * int(shape["ipc"])

    def build(mesh: Mesh) -> FRePo:
        return FRePo(Problem(net, config, pool, ridge, mesh, size, batch))

    image = (int(shape["side"]), int(shape["side"]), int(shape["channels"]))
    if min(image) < 1:
        raise ValueError(f"images of shape {image}")
    net.check(image)
    return Subject(step.name, build, image, classes, (1, 0), 1, None, False, False, "memory", batch)
