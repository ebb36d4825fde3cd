"""The command line: reads arguments, calls `run`, turns errors into exit codes.

Exit codes: 0 done, 42 preempted and saved, 130 interrupted and saved, 1 the run failed,
2 wrong input.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

DESCRIPTION = "Distils a data set into a few synthetic images per class (FRePo, NeurIPS 2022)."
_READS = "none: it only reads what a run left"
OVERRIDES = (
    "Any setting of the recipe can be changed for one run: --gin.IPC=10 --gin.DATASET=cifar10. "
    "The names are listed in gin/base/frepo.gin. Strings need no quotes."
)


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are wrong input like any other: one line, not the usage on top of it."""

    def error(self, message: str) -> NoReturn:
        from frepo_scale.core.errors import InputError

        raise InputError(message, f"the arguments that {self.prog} --help lists")


def parser() -> argparse.ArgumentParser:
    """The argument parser of `frepo-scale`."""
    top = _Parser(prog="frepo-scale", description=DESCRIPTION, epilog=OVERRIDES)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    distill = commands.add_parser(
        "distill",
        usage="%(prog)s RECIPE [--workdir DIR] [--gin.NAME=VALUE ...] [--dry-run]",
        help="run a recipe; an interrupted run goes on where it was",
        description="Runs a recipe. The same command again resumes an interrupted run.",
        epilog=OVERRIDES,
    )
    distill.add_argument(
        "recipe", metavar="RECIPE", help="a .gin file, or the name of one under gin/"
    )
    distill.add_argument(
        "--workdir",
        metavar="DIR",
        help="where the run lives, also gs://BUCKET/PATH (default: runs/<recipe>)",
    )
    distill.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, print the configuration and what it needs, train nothing",
    )

    evaluate = commands.add_parser(
        "evaluate",
        usage="%(prog)s WORKDIR|EXPORT.npz [--gin.NAME=VALUE ...]",
        help="train fresh nets on a distilled set and test them",
        description="Evaluates a finished run or an exported .npz with fresh nets.",
        epilog="Another net: --gin.NET=convnet --gin.WIDTH=64; more nets: --gin.EVAL_NETS=20.",
    )
    evaluate.add_argument(
        "target", metavar="WORKDIR|EXPORT.npz", help="a run's workdir, or an exported .npz"
    )

    prepare = commands.add_parser(
        "prepare",
        help="turn a large data set into records, once",
        description="Turns images in any known form into records of squares of one size, with"
        " everything a run needs to know of them. The same command again resumes an interrupted"
        " one.",
    )
    prepare.add_argument(
        "--source",
        required=True,
        metavar="PATH",
        help="a folder with ILSVRC2012_img_train.tar; train/<class>/<image> in a folder or a tar;"
        " TFRecords; idx or CIFAR files; or an .npz",
    )
    prepare.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    prepare.add_argument(
        "--resolution", required=True, type=int, metavar="R", help="side of the images in pixels"
    )
    prepare.add_argument(
        "--filter", choices=("area", "lanczos"), default="area", help="default: area"
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
        help="how many undecodable images may be left out (default: 0)",
    )
    prepare.add_argument("--name", metavar="NAME", help="what to call it (default: as the source)")
    prepare.add_argument(
        "--source-class",
        metavar="MODULE.CLASS",
        help="a source class of your own (docs/how-to/data-source.md)",
    )

    report = commands.add_parser(
        "report",
        help="write a run's report.html again",
        description="Writes WORKDIR/report.html from what the run has left so far.",
    )
    report.add_argument("workdir", metavar="WORKDIR", help="a run's workdir")

    export = commands.add_parser(
        "export",
        usage="%(prog)s WORKDIR [--format npz|folder] --out PATH",
        help="hand a distilled set over to others",
        description="Copies a finished run's distilled set: one .npz with everything needed to"
        " train on it elsewhere, or a folder of viewable PNG images with their labels.",
    )
    export.add_argument("workdir", metavar="WORKDIR", help="a finished run's workdir")
    export.add_argument("--format", choices=("npz", "folder"), default="npz", help="default: npz")
    export.add_argument("--out", required=True, metavar="PATH", help="the .npz or folder to make")
    return top


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes `--gin.NAME=VALUE` (or `--gin.NAME VALUE`) out of the arguments.

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
    from frepo_scale.core.errors import FailedElsewhere, InputError, RunError
    from frepo_scale.parallel.runtime import label

    command = ""
    try:
        rest, overrides = split_overrides(arguments)
        options = parser().parse_args(rest)
        command = options.command
        if overrides and options.command in ("report", "export", "prepare"):
            none = "none: it is no run" if options.command == "prepare" else _READS
            raise InputError(f"--gin. settings with {options.command}", none)
        return _dispatch(options, overrides)
    except (InputError, RunError) as error:
        print(f"frepo-scale: {label()}{error}", file=sys.stderr)
        return _code_of(error, command)
    except FailedElsewhere as error:
        return error.code
    except KeyboardInterrupt:
        print("frepo-scale: interrupted", file=sys.stderr)
        return 130


def _code_of(error: Exception, command: str) -> int:
    """The exit code of an error; 42 where a run that is started again may well go on."""
    from frepo_scale.core.errors import InputError, is_passing
    from frepo_scale.parallel.runtime import PREEMPTED_EXIT, lost_peer, process_count

    code = 2 if isinstance(error, InputError) else 1
    if command == "distill" and (lost_peer(error) or is_passing(error)):
        code = PREEMPTED_EXIT
        if process_count() > 1:  # the others have not come to this end: none waits for them
            raise SystemExit(code)
    return code


def _dispatch(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    # Imported late: --help and wrong arguments answer at once.
    from frepo_scale import config, run
    from frepo_scale.core.paths import is_local, to_path
    from frepo_scale.ops.workdir import KERNELS
    from frepo_scale.parallel.determinism import make_deterministic
    from frepo_scale.parallel.runtime import initialize

    match options.command:
        case "distill":
            recipe = config.load_recipe(config.find_recipe(options.recipe), overrides)
            workdir = to_path(options.workdir or Path("runs") / recipe.name)
            source = run.Source(recipe.name, recipe.text, recipe.operative)
            if recipe.config.mesh.deterministic and not options.dry_run:
                run.check_workdir(recipe.config, workdir)
                make_deterministic(workdir / KERNELS if is_local(workdir) else None)
            initialize()
            if options.dry_run:
                return run.dry_run(recipe.config, source, workdir)
            return run.distill(recipe.config, source, workdir)
        case "evaluate":
            target = to_path(options.target)
            name, text = run.recipe_text(target)
            recipe = config.load_text(name, text, overrides)
            initialize()
            return run.evaluate(recipe.config, target)
        case "prepare":
            return run.prepare(
                run.PrepareConfig(
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
        case "report":
            return run.report(to_path(options.workdir))
        case _:
            return run.export(
                to_path(options.workdir), options.format, Path(options.out).expanduser()
            )


def entry() -> None:
    """The console script."""
    # JAX's LAPACK on CPU is SciPy's OpenBLAS, which is 2-50 times slower with several threads on
    # busy cores (STACK.md section 6). Read when it is loaded, so it is set before any import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # TensorFlow, which only writes event files here, greets on stderr unless told both.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from frepo_scale.parallel.runtime import run_and_leave

    run_and_leave(_command)


def _command() -> int:
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    return code


if __name__ == "__main__":
    entry()
