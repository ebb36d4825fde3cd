"""The command line: arguments -> settings -> a job -> an exit code (see `parallel.ending`)."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

DESCRIPTION = (
    "Distils an image data set into a few learned images per class, by neural feature regression"
    " (FRePo, NeurIPS 2022)."
)
OVERRIDES = (
    "Any setting of a recipe can be changed for one run: --gin.IPC=10 --gin.DATASET=cifar10."
    " `frepo-scale settings` lists them. Strings need no quotes."
)


_DEBUG = "show the traceback of an error"


class _Version(argparse.Action):
    """Prints the versions of this program and of the libraries that compute."""

    def __call__(self, *_: object) -> NoReturn:
        from frepo_scale.core.versions import version_line

        print(version_line())
        raise SystemExit(0)


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as InputError: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        from frepo_scale.core.errors import InputError

        raise InputError(message, f"the arguments that {self.prog} --help lists")


def parser() -> argparse.ArgumentParser:
    """The argument parser of `frepo-scale`."""
    top = _Parser(prog="frepo-scale", description=DESCRIPTION, epilog=OVERRIDES)
    top.add_argument("--version", action=_Version, nargs=0, help="show versions and exit")
    top.add_argument("--debug", action="store_true", default=False, help=_DEBUG)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_distill, _evaluate, _prepare, _report, _export, _settings):
        add(commands)
    for command in commands.choices.values():
        # Without a default, which would replace a --debug before the command.
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
    return top


def _distill(commands: "argparse._SubParsersAction[_Parser]") -> None:
    distill = commands.add_parser(
        "distill",
        usage="%(prog)s RECIPE [--workdir DIR] [--gin.NAME=VALUE ...] [--dry-run]",
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


def _evaluate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    evaluate = commands.add_parser(
        "evaluate",
        usage="%(prog)s WORKDIR|EXPORT.npz [--gin.NAME=VALUE ...]",
        help="train fresh nets on a distilled set and test them",
        description="Trains fresh nets on the distilled set of a finished run, or on an exported"
        " .npz, and tests them.",
        epilog="Another net: --gin.WIDTH=64; more nets: --gin.EVAL_NETS=20.",
    )
    evaluate.add_argument(
        "target", metavar="WORKDIR|EXPORT.npz", help="workdir of a run, or an exported .npz"
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
        help="a folder with ILSVRC2012_img_train.tar; train/<class>/<image> in a folder or a tar;"
        " TFRecords; idx or CIFAR files; or an .npz",
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
        "--name", metavar="NAME", help="name of the data set (default: that of the source)"
    )
    prepare.add_argument(
        "--source-class",
        metavar="MODULE.CLASS",
        help="a source class of your own (docs/how-to/data-source.md)",
    )


def _report(commands: "argparse._SubParsersAction[_Parser]") -> None:
    report = commands.add_parser(
        "report",
        help="write the report.html of a run again",
        description="Writes WORKDIR/report.html from what the run has written so far.",
    )
    report.add_argument("workdir", metavar="WORKDIR", help="workdir of a run")


def _export(commands: "argparse._SubParsersAction[_Parser]") -> None:
    export = commands.add_parser(
        "export",
        usage="%(prog)s WORKDIR [--format npz|folder] --out PATH",
        help="write a distilled set for use elsewhere",
        description="Writes the distilled set of a finished run: one .npz with everything needed"
        " to train on it elsewhere, or a folder of viewable PNG images with their labels.",
    )
    export.add_argument("workdir", metavar="WORKDIR", help="workdir of a finished run")
    export.add_argument("--format", choices=("npz", "folder"), default="npz", help="default: npz")
    export.add_argument("--out", required=True, metavar="PATH", help="the .npz or folder to write")


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
    from frepo_scale.core.paths import check_utf8
    from frepo_scale.parallel.ending import exit_code
    from frepo_scale.parallel.failures import explaining, import_jax

    options = argparse.Namespace(command="", debug="--debug" in arguments)
    try:
        for argument in arguments:
            check_utf8(argument, "argument")
        rest, overrides = split_overrides(arguments)
        options = parser().parse_args(rest)
        if overrides and options.command not in ("distill", "evaluate"):
            name = next(iter(overrides))
            raise InputError(
                f"--gin.{name} with {options.command}", "--gin. with distill or evaluate only"
            )
        import_jax()
        with explaining():
            _COMMANDS[options.command](options, overrides)
        sys.stdout.flush()
        return 0
    except (Preempted, FailedElsewhere) as error:
        return exit_code(error)
    except BrokenPipeError as error:  # the reader of the output has ended, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.distill import distill, start
    from frepo_scale.jobs.plan import dry_run
    from frepo_scale.parallel.connect import connect

    recipe = config.load_recipe(config.find_recipe(options.recipe), overrides)
    workdir = to_path(options.workdir or Path("runs") / recipe.name)
    if options.dry_run:
        connect()
        dry_run(recipe, workdir)
    else:
        start(recipe, workdir)
        distill(recipe, workdir)


def _run_evaluate(options: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    from frepo_scale import config
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.evaluate import evaluate
    from frepo_scale.jobs.workdirs import recipe_text
    from frepo_scale.parallel.connect import connect

    target = to_path(options.target)
    name, text = recipe_text(target)
    recipe = config.load_text(name, text, overrides)
    connect()
    evaluate(recipe.config, target)


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
            name=options.name,
            source_class=options.source_class,
        )
    )


def _run_report(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.report import report

    report(to_path(options.workdir))


def _run_export(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale.core.paths import to_path
    from frepo_scale.jobs.export import export

    export(to_path(options.workdir), options.format, Path(options.out).expanduser())


def _run_settings(options: argparse.Namespace, _: Mapping[str, str]) -> None:
    from frepo_scale import config

    print(config.settings_table())


_COMMANDS: dict[str, Callable[[argparse.Namespace, Mapping[str, str]], None]] = {
    "distill": _run_distill,
    "evaluate": _run_evaluate,
    "prepare": _run_prepare,
    "report": _run_report,
    "export": _run_export,
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
    from frepo_scale.parallel.ending import run_and_leave

    run_and_leave(main, sys.argv[1:])


if __name__ == "__main__":
    entry()
