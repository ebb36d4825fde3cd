"""What surrounds an attempt: the environment of the attempts before it, and failures around it."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from frepo_scale.core.errors import InputError, Preempted, RunError
from frepo_scale.core.identity import default_settings, scientific_settings
from frepo_scale.core.versions import version
from frepo_scale.export.run_report import write_text
from frepo_scale.jobs.preprocessing import check_data
from frepo_scale.jobs.run import Run
from frepo_scale.jobs.workdirs import MAKER_LINE, NAME_LINE
from frepo_scale.ops.goodput import read_ledger
from frepo_scale.ops.preemption import Preemption
from frepo_scale.ops.supervisor import Supervisor
from frepo_scale.ops.workdir import Workdir
from frepo_scale.parallel import ending
from frepo_scale.parallel.environment import changes, environment
from frepo_scale.parallel.failures import explaining
from frepo_scale.parallel.runtime import is_first
from frepo_scale.plan.overview import written_bytes


def check_environment(workdir: Workdir, run: Run) -> None:
    """Compares this environment with that of the attempts whose steps this one continues.

    Prints one line if it differs from the last of them.

    Raises:
      InputError: `DETERMINISTIC` promises equal bits, and it differs from any of them.
    """
    attempts = read_ledger(workdir.ledger).attempts
    now = environment(run.mesh)
    recorded = [(n, a.environment) for n, a in enumerate(attempts, 1) if a.last_step is not None]
    differing = [(n, found) for n, before in recorded if before and (found := changes(before, now))]
    if not differing:
        return
    number, found = differing[-1]
    if run.config.mesh.deterministic:
        raise InputError(
            f"DETERMINISTIC = True, and workdir {workdir.root} has steps of another environment"
            f" (attempt {number}): {'; '.join(found)}",
            "the same environment for every attempt, which equal bits need",
            "restore it, or continue without equal bits: --gin.DETERMINISTIC=False",
        )
    if number == recorded[-1][0]:
        print(
            f"frepo-scale: the environment differs from that of attempt {number}, and so may the"
            f" last bits of the result: {'; '.join(found)}",
            file=sys.stderr,
        )


def open_workdir(workdir: Workdir, supervisor: Supervisor, run: Run) -> None:
    """Opens the workdir, locks it and records the run in it; on process 0, after all checks."""
    settings = scientific_settings(run.config)
    check_data(workdir, run.dataset)
    check_environment(workdir, run)
    needed = written_bytes(run.algorithm, run.dataset)
    workdir.open(settings, needed, default_settings(run.config))
    supervisor.lock()
    workdir.claim(settings)
    head = f"{NAME_LINE}{run.recipe.name}\n{MAKER_LINE}{version()}\n"
    write_text(workdir.config, head + run.recipe.text)
    write_text(workdir.operative_config, run.recipe.operative)
    for note in run.dataset.notes:
        print(f"data: {note}")
    run.print_settings_without_effect()


def _stopped(workdir: Workdir, supervisor: Supervisor) -> None:
    supervisor.preempted()
    if is_first():
        print(f"stopped; the same command resumes from {workdir.root}")


def nothing_to_save(
    workdir: Workdir, supervisor: Supervisor, preemption: Preemption
) -> contextlib.AbstractContextManager[None]:
    """A context in which a stop ends the process at once, because no step is lost by it."""

    def record() -> None:
        _stopped(workdir, supervisor)
        supervisor.close()

    return leaving_at_once(preemption, record)


def leaving_at_once(
    preemption: Preemption, say: Callable[[], None]
) -> contextlib.AbstractContextManager[None]:
    """A context in which a stop calls `say` and ends the process.

    Only where all files are complete at any moment, and several processes have nothing to save
    together.
    """

    def leave(code: int) -> None:
        try:
            print(file=sys.stderr)  # after a progress bar
            ending.others_first()  # and the lock is held until this process ends, too
            say()
        finally:  # also if the disk is full and the end cannot be recorded
            ending.leave(code)

    return preemption.leaving_at_once(leave)


@contextlib.contextmanager
def first_step(workdir: Workdir, supervisor: Supervisor, preemption: Preemption) -> Iterator[None]:
    """The context of what may compile for long: the watchdog waits, and a stop does not."""
    with supervisor.compiling(), nothing_to_save(workdir, supervisor, preemption):
        yield


@contextlib.contextmanager
def ends_recorded(
    workdir: Workdir,
    supervisor: Supervisor,
    preemption: Preemption,
    advice: Callable[[str], str] | None = None,
) -> Iterator[None]:
    """Records in the workdir how the attempt ends; errors of its disk become InputErrors.

    Args:
      workdir: the folder of the run.
      supervisor: keeps the record.
      preemption: knows the exit code of a stop.
      advice: see `parallel.failures.explained`.
    """
    try:
        with explaining(advice):
            yield
    except Preempted:
        _stopped(workdir, supervisor)
        raise Preempted(preemption.exit_code) from None
    except BrokenPipeError:  # the reader of the output has ended; the workdir is intact
        raise
    except OSError as error:
        supervisor.failed(error)
        raise InputError(
            f"workdir {workdir.root} cannot be written ({error.strerror or error})",
            "free space on the disk and permission to write",
            "correct this and repeat the command: the run resumes from its last checkpoint",
        ) from error
    except (InputError, RunError) as error:
        supervisor.failed(error)
        raise
