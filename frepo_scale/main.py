"""The command line: arguments -> settings -> a job -> an exit code (see `parallel.ending`)."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from frepo_scale.arguments import parser, split_overrides


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    from frepo_scale.core.errors import FailedElsewhere, InputError, Preempted, RunError
    from frepo_scale.core.paths import check_utf8
    from frepo_scale.parallel.ending import exit_code
    from frepo_scale.parallel.failures import explaining, import_jax

    options = argparse.Namespace(command="", debug="--debug" in arguments)
    try:
        for argument in arguments:
            check_utf8(argument, "argument")
        rest, overrides = split_overrides(arguments)
        options = parser().parse_args(rest)
        if overrides and options.command not in ("distill", "plan", "evaluate", "pretrain"):
            name = next(iter(overrides))
            raise InputError(
                f"--gin.{name} with {options.command}",
                "--gin. with distill, plan, evaluate or pretrain only",
            )
        if options.command == "plan" and not options.quick:
            from frepo_scale.plan.compilers import find_compiler

            find_compiler("gpu")  # JAX looks for the libraries of GPUs when it is imported
        if options.command != "status":  # which launchers ask often
            import_jax()
        with explaining():
            _COMMANDS[options.command](options, overrides)
        sys.stdout.flush()
        return 0
    except (Preempted, FailedElsewhere) as error:
        return exit_code(error)
    except (InputError, RunError) as error:
        return _reported(error, options)
    except KeyboardInterrupt as error:
        print("frepo-scale: interrupted", file=sys.stderr)
        return exit_code(error)


def _reported(error: Exception, options: argparse.Namespace) -> int:
    """Prints the line of an error, after its traceback with --debug; returns the exit code."""
    from frepo_scale.parallel.ending import PREEMPTED_EXIT, exit_code
    from frepo_scale.parallel.runtime import label, process_count

    if options.debug:
        traceback.print_exception(error)
    print(f"frepo-scale: {label()}{error}", file=sys.stderr)
    code = exit_code(error, resumable=options.command == "distill")
    if code == PREEMPTED_EXIT and process_count() > 1:
        # The other processes have not reached this point: do not wait for them.
        raise SystemExit(code) from error
    return code


# Imports are inside the functions: --help and wrong arguments answer at once.


def _run_distill(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.core.errors import InputError
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.distill import distill, start
    from frepo_scale.jobs.elsewhere import check_elsewhere
    from frepo_scale.jobs.plan import dry_run
    from frepo_scale.jobs.series import distill_series, dry_run_series
    from frepo_scale.parallel.connect import connect

    recipe = config.load_recipe(config.find_recipe(options.recipe), overrides)
    if options.devices is not None:
        if not options.dry_run:
            raise InputError(
                f"--devices {options.devices} without --dry-run", "both", "add --dry-run"
            )
        check_elsewhere(recipe, options.devices, options.workdir)
        return
    workdir = to_path(options.workdir or Path("runs") / recipe.name)
    if options.dry_run:
        connect()
    else:
        start(recipe, workdir)
    if recipe.config.series.by is not None:
        run_series = dry_run_series if options.dry_run else distill_series
        run_series(recipe, workdir, partial(config.changed, recipe))
    else:
        run = dry_run if options.dry_run else distill
        run(recipe, workdir)


def _run_plan(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.jobs.plan import plan
    from frepo_scale.jobs.plan_options import options_of

    recipe = config.load_recipe(config.find_recipe(options.recipe), overrides)
    plan(recipe, options_of(options, overrides))


def _run_evaluate(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.evaluate import evaluate, told_about
    from frepo_scale.parallel.connect import connect

    target = to_path(options.target)
    out = None if options.out is None else to_path(options.out)
    told = told_about(target, options.labels, options.normalised)
    recipe = config.recipe_of_set(target, options.dataset, overrides)
    connect()
    evaluate(recipe.config, target, told, out)


def _run_pretrain(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.core.errors import InputError
    from frepo_scale.jobs.pretrain import pretrain
    from frepo_scale.parallel.connect import connect

    if options.nets < 1:
        raise InputError(f"--nets {options.nets}", "a positive number")
    recipe = config.load_recipe(config.find_recipe(options.recipe), overrides)
    connect()
    pretrain(recipe, Path(options.out).expanduser(), options.nets)


def _run_prepare(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.data.prepare.settings import PrepareConfig
    from frepo_scale.jobs.prepare import prepare

    prepare(
        PrepareConfig(
            source=Path(options.source).expanduser(),
            out=Path(options.out).expanduser(),
            resolution=options.resolution,
            filter=options.filter,
            fit=options.fit,
            workers=options.workers,
            skip_bad=options.skip_bad,
            no_test=options.no_test,
            name=options.name,
            source_class=options.source_class,
        )
    )


def _run_status(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.jobs.status import status

    status(options.workdir, options.since, options.json)


def _run_report(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.report import report

    report(to_path(options.workdir))


def _run_export(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.export import export

    export(to_path(options.workdir), options.format, Path(options.out).expanduser())


def _run_profile(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.profile import request_profile

    request_profile(to_path(options.workdir))


def _run_compare(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.compare import compare

    compare([to_path(path) for path in options.paths], Path(options.out).expanduser())


def _run_settings(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale import config

    print(config.settings_table())


_COMMANDS: dict[str, Callable[[argparse.Namespace, Mapping[str, str]], None]] = {
    "distill": _run_distill,
    "plan": _run_plan,
    "evaluate": _run_evaluate,
    "prepare": _run_prepare,
    "pretrain": _run_pretrain,
    "status": _run_status,
    "report": _run_report,
    "export": _run_export,
    "profile": _run_profile,
    "compare": _run_compare,
    "settings": _run_settings,
}


def entry() -> None:
    """The console script."""
    # On CPU the linear algebra of JAX is SciPy's OpenBLAS, which is 2 to 50 times slower with
    # several threads on busy cores. It reads this when it is loaded, so before any import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # TensorFlow prints a greeting on stderr unless both are set.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from frepo_scale.ops.output import outlive_readers
    from frepo_scale.parallel.ending import run_and_leave

    outlive_readers()
    run_and_leave(main, sys.argv[1:])


if __name__ == "__main__":
    entry()
