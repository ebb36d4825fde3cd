"""`frepo-scale distill` with `SERIES`: several runs in one workdir, and one evaluation of them.

Each part of the data is an ordinary run in a folder of its own, with its own checkpoints and lock.
When all have finished, their sets are evaluated together. So a series resumes as its runs do.
"""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from frepo_scale.core.identity import default_settings, scientific_settings, settings_sha256
from frepo_scale.core.paths import is_file
from frepo_scale.core.versions import version
from frepo_scale.export.run_report import write_text
from frepo_scale.export.series_report import print_series, write_series_report
from frepo_scale.jobs.distill import distill
from frepo_scale.jobs.net_files import with_fingerprints
from frepo_scale.jobs.plan import dry_run
from frepo_scale.jobs.run import build_run
from frepo_scale.jobs.series_runs import SeriesRun, runs_of
from frepo_scale.jobs.series_scores import series_evaluations, series_scores
from frepo_scale.jobs.settings import Recipe
from frepo_scale.jobs.surroundings import ends_recorded, nothing_to_save
from frepo_scale.jobs.workdirs import MAKER_LINE, NAME_LINE
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.supervisor import Supervisor
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel.compiled import keep_compiled
from frepo_scale.parallel.environment import environment
from frepo_scale.parallel.matmul import matmul_precision
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.parallel.pinned import pinned
from frepo_scale.parallel.runtime import agree, is_first
from frepo_scale.parallel.share import on_first
from frepo_scale.plan.overview import written_bytes

# The recipe with some settings changed: gin is known to `config` only.
Change = Callable[[Mapping[str, str]], Recipe]


def distill_series(recipe: Recipe, root: Path, change: Change) -> None:
    """Runs or resumes every run of a series, then evaluates their sets.

    Args:
      recipe: of the series.
      root: its workdir; made if it does not exist.
      change: gives the recipe with some settings changed.

    Raises:
      InputError: the recipe, a setting, the data, the devices or the workdir are wrong.
      Preempted: a stop was requested; the same call continues.
      RunError: a run failed.
    """
    recipe = with_fingerprints(recipe)
    workdir, settings = Workdir(root), scientific_settings(recipe.config)
    defaults = default_settings(recipe.config)
    on_first(lambda: workdir.check_identity(settings, defaults))
    if agree(int(is_file(workdir.done) and is_file(workdir.result))):
        if is_first():
            print_series(workdir, f"{recipe.name} is finished.\n")
        return
    runs = runs_of(recipe.config)
    recipes = [change(run.changes) for run in runs]
    new = agree(int(not is_file(workdir.identity)))
    needed = _checked_bytes(recipe, recipes) if new else 0
    on_first(lambda: _open(workdir, recipe, needed))
    keep_compiled(workdir.compiled, jax.default_backend())  # the runs compile the same programs
    for run, part in zip(runs, recipes, strict=True):
        if not agree(int(Workdir(root / run.name).finished)):
            with _own_signals():
                distill(part, root / run.name)
    with _own_signals():
        _evaluate(workdir, recipe, runs)


def dry_run_series(recipe: Recipe, root: Path, change: Change) -> None:
    """Checks all runs and prints the first, and what the others distil; writes nothing.

    Raises:
      InputError: as `distill_series`.
    """
    recipe = with_fingerprints(recipe)
    Workdir(root).check_identity(
        scientific_settings(recipe.config), default_settings(recipe.config)
    )
    runs = runs_of(recipe.config)
    recipes = [change(run.changes) for run in runs]
    _checked_bytes(recipe, recipes)
    dry_run(recipes[0], root / runs[0].name)
    if is_first():
        for run in runs:
            print(f"{root / run.name}: {described(run)}")


def described(run: SeriesRun) -> str:
    """Which part of the data a run distils, such as "CHUNK_OF = '0/5'"."""
    parts = {"CLASSES": run.data.classes, "CHUNK_OF": run.data.chunk_of}
    return ", ".join(f"{name} = {text!r}" for name, text in parts.items() if text is not None)


def _checked_bytes(recipe: Recipe, recipes: list[Recipe]) -> int:
    """Builds every run, so that none fails after days of others; the bytes that they write."""
    needed = 0
    with pinned(), matmul_precision(recipe.config.distill.matmul_precision):
        for part in recipes:
            run = build_run(part)
            needed += written_bytes(run.algorithm, run.dataset)
        series_evaluations(recipe.config, run.dataset)
    return needed


def _open(workdir: Workdir, recipe: Recipe, needed: int) -> None:
    """Records in the workdir which series it belongs to; on process 0."""
    settings = scientific_settings(recipe.config)
    workdir.open(settings, needed, default_settings(recipe.config))
    workdir.claim(settings)
    head = f"{NAME_LINE}{recipe.name}\n{MAKER_LINE}{version()}\n"
    write_text(workdir.config, head + recipe.text)
    write_text(workdir.operative_config, recipe.operative)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Afterwards signals do what they did before: between two runs nobody polls for a stop."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            # With several processes the handler of SIGTERM is JAX's, which Python does not see.
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _evaluate(workdir: Workdir, recipe: Recipe, runs: list[SeriesRun]) -> None:
    """Evaluates the sets of all runs and writes result and report."""
    config = recipe.config
    with (
        pinned(),
        matmul_precision(config.distill.matmul_precision),
        Supervisor(workdir, config.loop.watchdog_minutes) as supervisor,
    ):
        on_first(supervisor.lock)
        preemption = Preemption(supervisor.heartbeat)
        preemption.install()
        with ends_recorded(workdir, supervisor, preemption):
            supervisor.begin(config.distill.steps, environment(single_device_mesh()))
            with (
                nothing_to_save(workdir, supervisor, preemption),
                supervisor.ledger.during("evaluation"),
            ):
                scores = series_scores(config, workdir.root, workdir.finished_nets, preemption)
            result = scores | {
                "series": {run.name: described(run) for run in runs},
                "config_sha256": settings_sha256(scientific_settings(config)),
            }

            def write() -> None:
                supervisor.check_lock()
                supervisor.finished()
                write_text(workdir.result, json.dumps(result, indent=1) + "\n")
                write_series_report(workdir, recipe.name)
                write_text(workdir.done, "")  # last: without it the evaluation is done again
                print_series(workdir)

            on_first(write)
