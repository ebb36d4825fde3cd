"""The commands as Python functions; `import frepo_scale as fs` offers them as `fs.distill`, ...

They take the names of recipes and settings that the command line takes, and raise what the command
line turns into exit codes: `InputError` (2), `RunError` (1), `Preempted` (42 or 130).
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import threadpoolctl

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import check_utf8, read_bytes, to_path
from frepo_scale.jobs import distill as distill_job
from frepo_scale.jobs import evaluate as evaluate_job
from frepo_scale.jobs import series as series_job
from frepo_scale.jobs.distill import start
from frepo_scale.jobs.evaluate import Normalised
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.connect import connect
from frepo_scale.parallel.failures import explaining

_PathLike = str | os.PathLike[str]


def distill(recipe: str, workdir: _PathLike | None = None, **settings: Any) -> dict[str, Any]:
    """Runs a recipe to its result, or resumes it.

    Args:
      recipe: a .gin file, or the name of one under gin/.
      workdir: the folder of the run, also on gs://; None: runs/<recipe>. `load` reads the distilled
        set from it.
      **settings: settings by their names (see `frepo-scale settings`), such as `STEPS=200`.

    Returns:
      The content of result.json: "distilled": {"mean", "std", "n"}, "random_real", ...,
      "evaluations", "selected_step", "seconds". A finished run returns its result at once.

    Raises:
      InputError: the recipe, a setting, the data or the workdir are wrong.
      RunError: the loss diverged, or no checkpoint is intact.
      Preempted: SIGTERM or Ctrl-C; the state is saved, the same call resumes the run.
    """
    read = config.load_recipe(config.find_recipe(recipe), _overrides(settings))
    folder = to_path(Path("runs") / read.name if workdir is None else os.fspath(workdir))
    with _as_a_program():
        start(read, folder)
        if read.config.series.by is None:
            distill_job.distill(read, folder)
        else:
            series_job.distill_series(read, folder, partial(config.changed, read))
    return _json(Workdir(folder).result)


def evaluate(
    path: _PathLike,
    dataset: str | None = None,
    labels: _PathLike | None = None,
    normalised: tuple[Normalised, Normalised] | None = None,
    out: _PathLike | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Trains fresh nets on a distilled set and tests them.

    Args:
      path: the workdir of a finished run, an export, or a set of another program: a folder of class
        folders of images, an .npz with `images` and `labels`, or a .pt of PyTorch.
      dataset: the data set that a set of another program was made from, such as "cifar10".
      labels: a file with its labels, where they are not in `path`.
      normalised: mean and standard deviation of its normalisation, of all channels or of each:
        (0.5, 0.25) or ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), also as on the command line.
      out: the folder for the result and the finished nets; None: the workdir of the run, or
        beside the set `set.npz.evaluation` (for `set.npz`).
      **settings: settings, such as `EVAL_NETS=20` or `NET="convnet"`.

    Returns:
      The scores, as evaluation.json there holds them: "distilled": {"mean", "std", "n"}, ...,
      "evaluations", the protocol under "protocol", and versions under "environment".

    Raises:
      InputError: the set, a setting, the data or the folder are wrong.
      Preempted: SIGTERM or Ctrl-C; the same call resumes.
    """
    target = to_path(os.fspath(path))
    told = evaluate_job.told_about(
        target, None if labels is None else os.fspath(labels), normalised
    )
    read = config.recipe_of_set(target, dataset, _overrides(settings))
    with _as_a_program():
        connect()
        folder = None if out is None else to_path(os.fspath(out))
        return evaluate_job.evaluate(read.config, target, told, folder)


def plan(recipe: str, topology: str | None = None, **settings: Any) -> dict[str, float]:
    """What one outer step needs per device, as the compiler reports it. Nothing is computed.

    Args:
      recipe: as for `distill`.
      topology: a TPU slice such as "v5e:4x4", whose devices this machine need not have; None: the
        devices of this machine. For GPUs and for times use the command `frepo-scale plan`.
      **settings: settings, such as `MEMBERS=4`.

    Returns:
      "devices", and per device "arguments", "temporary" and "code" (bytes) and "operations"
      (floating-point operations, a lower bound).

    Raises:
      InputError: the recipe does not suit the devices, its data set has no fixed shape, or there is
        no such slice.
    """
    import jax

    from frepo_scale.jobs.plan import compile_recipe
    from frepo_scale.plan.chips import CHIPS
    from frepo_scale.plan.compile import cost_of
    from frepo_scale.plan.topology import tpu_devices

    chip = CHIPS.get((topology or "").partition(":")[0])
    if chip is not None and chip.platform != "tpu":
        raise InputError(
            f"topology={topology!r}",
            "a TPU slice such as 'v5e:4x4' or 'v4:2x2x2'",
            f"for GPUs use `frepo-scale plan RECIPE --on {topology}`",
        )
    read = config.load_recipe(config.find_recipe(recipe), _overrides(settings))
    devices = jax.devices() if topology is None else tpu_devices(topology)
    cost = cost_of(compile_recipe(read.config, devices))
    return {"devices": len(devices), **cost._asdict()}


def _overrides(settings: Mapping[str, Any]) -> dict[str, str]:
    """The values as they would be typed after `--gin.NAME=`."""
    texts = {}
    for name, value in settings.items():
        given = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(given, str):
            check_utf8(given, f"{name} =")
        texts[name] = repr(given)
    return texts


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read_bytes(path))
    return content


@contextlib.contextmanager
def _as_a_program() -> Iterator[None]:
    """The surroundings of a job: its signal handlers, and one thread for LAPACK.

    Known failures of JAX and the system become `InputError` or `RunError`, as on the command line.
    Afterwards SIGTERM and SIGINT are the caller's again. LAPACK on CPU is 2 to 50 times slower with
    several threads on busy cores.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with threadpoolctl.threadpool_limits(1, "blas"), explaining():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
