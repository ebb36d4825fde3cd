"""The command line: arguments -> settings -> a job -> an exit code (see `parallel.ending`)."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from frepo_scale.arguments import add_compare, add_evaluate, add_export

DESCRIPTION = (
    "Distils an image data set into a few learned images per class, by neural feature regression"
    " (FRePo, NeurIPS 2022)."
)
OVERRIDES = (
    "Any setting of a recipe can be changed for one run: --gin.IPC=10 --gin.DATASET=cifar10."
    " `frepo-scale settings` lists them. Strings need no quotes."
)


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as InputError: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        from frepo_scale.core.errors import InputError

        raise InputError(message, f"the arguments that {self.prog} --help lists")


def parser() -> argparse.ArgumentParser:
    """The argument parser of `frepo-scale`."""
    top = _Parser(prog="frepo-scale", description=DESCRIPTION, epilog=OVERRIDES)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adders = (_distill, add_evaluate, _prepare, _status, _report, add_export, add_compare)
    for add in (*adders, _profile, _settings):
        add(commands)
    return top


def _distill(commands: "argparse._SubParsersAction[_Parser]") -> None:
    distill = commands.add_parser(
        "distill",
        usage="%(prog)s RECIPE [--workdir DIR] [--gin.NAME=VALUE ...] [--dry-run [--devices N]]",
        help="run a recipe, or resume an interrupted run",
        description="Runs a recipe. The same command again resumes an interrupted run.",
        epilog=OVERRIDES,
    )
    distill.add_argument(
        "recipe", metavar="RECIPE", help="a .gin file, or the name of one under gin/"
    )
    distill.add_argument(
        "--workdir",
        metavar="DIR",
        help="folder of the run, also gs://BUCKET/PATH (default: runs/<recipe>)",
    )
    distill.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print the settings and the memory they need, train nothing",
    )
    distill.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="with --dry-run: check the recipe for N devices of other machines; no data are read",
    )


def _prepare(commands: "argparse._SubParsersAction[_Parser]") -> None:
    prepare = commands.add_parser(
        "prepare",
        help="convert a large data set into records, once",
        description="Converts images in any known form into records of square images of one size,"
        " with everything a run needs to know about them. The same command again resumes an"
        " interrupted conversion.",
    )
    prepare.add_argument(
        "--source",
        required=True,
        metavar="PATH",
        help="a folder with ILSVRC2012_img_train.tar; train/<class>/<image> in a folder, a tar or a"
        " zip; TFRecords, Parquet, WebDataset; or another form of docs/recipes.md",
    )
    prepare.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    prepare.add_argument(
        "--resolution", required=True, type=int, metavar="R", help="side of the images in pixels"
    )
    prepare.add_argument(
        "--filter",
        choices=("area", "lanczos"),
        default="area",
        help="how images are resized (default: area)",
    )
    prepare.add_argument(
        "--fit",
        choices=("crop", "squash"),
        default="crop",
        help="how images become squares (default: crop, the centre)",
    )
    prepare.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core)"
    )
    prepare.add_argument(
        "--skip-bad",
        type=int,
        default=0,
        metavar="N",
        help="at most this many undecodable images are skipped (default: 0)",
    )
    prepare.add_argument(
        "--no-test",
        action="store_true",
        help="make a set of the training images only",
    )
    prepare.add_argument(
        "--name", metavar="NAME", help="name of the data set (default: that of the source)"
    )
    prepare.add_argument(
        "--source-class",
        metavar="MODULE.CLASS",
        help="a source class of your own (docs/how-to/data-source.md)",
    )


def _status(commands: "argparse._SubParsersAction[_Parser]") -> None:
    status = commands.add_parser(
        "status",
        help="show how far a run has come",
        description="Shows state, step, time left, last save, attempts and health of a run, also of"
        " one in progress, from the files of its workdir.",
    )
    status.add_argument("workdir", metavar="WORKDIR", help="workdir of a run, also gs://...")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.add_argument(
        "--since",
        metavar="TOKEN",
        help="for launchers: print 'TOKEN yes|no WORDS', the progress now, whether it is further"
        " than at TOKEN (- at first), and the progress in words; also for the --out of prepare",
    )


def _report(commands: "argparse._SubParsersAction[_Parser]") -> None:
    report = commands.add_parser(
        "report",
        help="write the report.html of a run again",
        description="Writes WORKDIR/report.html from what the run has written so far.",
    )
    report.add_argument("workdir", metavar="WORKDIR", help="workdir of a run")


def _profile(commands: "argparse._SubParsersAction[_Parser]") -> None:
    profile = commands.add_parser(
        "profile",
        help="profile the next steps of a run under way",
        description="Asks a run that is training now for a profile of its next steps, which"
        " TensorBoard shows.",
    )
    profile.add_argument("workdir", metavar="WORKDIR", help="workdir of the run")


def _settings(commands: "argparse._SubParsersAction[_Parser]") -> None:
    commands.add_parser(
        "settings",
        help="list every setting of a recipe with its default",
        description="Lists every setting of a recipe: name, default, meaning. Settings marked with"
        " * change the result by rounding at most.",
    )


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Separates `--gin.NAME=VALUE` (or `--gin.NAME VALUE`) from the other arguments.

    Raises:
      InputError: an override has no value.
    """
    from frepo_scale.core.errors import InputError

    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith("--gin."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise InputError(argument, f"a value, as in {argument}=VALUE")
            value = queue.pop(0)
        overrides[name] = value
    return rest, overrides


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    from frepo_scale.core.errors import FailedElsewhere, InputError, Preempted, RunError
    from frepo_scale.parallel.ending import PREEMPTED_EXIT, exit_code
    from frepo_scale.parallel.runtime import label, process_count

    command = ""
    try:
        rest, overrides = split_overrides(arguments)
        options = parser().parse_args(rest)
        command = options.command
        if overrides and command not in ("distill", "evaluate"):
            name = next(iter(overrides))
            raise InputError(f"--gin.{name} with {command}", "--gin. with distill or evaluate only")
        _COMMANDS[command](options, overrides)
        sys.stdout.flush()
        return 0
    except (Preempted, FailedElsewhere) as error:
        return exit_code(error)
    except (InputError, RunError) as error:
        print(f"frepo-scale: {label()}{error}", file=sys.stderr)
        code = exit_code(error, resumable=command == "distill")
        if code == PREEMPTED_EXIT and process_count() > 1:
            # The other processes have not reached this point: do not wait for them.
            raise SystemExit(code) from error
        return code
    except KeyboardInterrupt as error:
        print("frepo-scale: interrupted", file=sys.stderr)
        return exit_code(error)


# Imports are inside the functions: --help and wrong arguments answer at once.


def _run_distill(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.core.errors import InputError
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.distill import distill, start
    from frepo_scale.jobs.elsewhere import check_elsewhere
    from frepo_scale.jobs.plan import dry_run
    from frepo_scale.jobs.series import distill_series, dry_run_series
    from frepo_scale.parallel.runtime import initialize

    recipe = config.load_recipe(config.find_recipe(options.recipe), overrides)
    if options.devices is not None:
        if not options.dry_run or options.devices < 1:
            raise InputError(f"--devices {options.devices}", "a positive number, with --dry-run")
        check_elsewhere(recipe, options.devices)
        return
    workdir = to_path(options.workdir or Path("runs") / recipe.name)
    if options.dry_run:
        initialize()
    else:
        start(recipe, workdir)
    if recipe.config.series.by is not None:
        run_series = dry_run_series if options.dry_run else distill_series
        run_series(recipe, workdir, partial(config.changed, recipe))
    else:
        run = dry_run if options.dry_run else distill
        run(recipe, workdir)


def _run_evaluate(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.evaluate import evaluate, told_about
    from frepo_scale.parallel.runtime import initialize

    target = to_path(options.target)
    told = told_about(target, options.labels, options.normalised)
    recipe = config.recipe_of_set(target, options.dataset, overrides)
    initialize()
    evaluate(recipe.config, target, told)


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
    "evaluate": _run_evaluate,
    "prepare": _run_prepare,
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
