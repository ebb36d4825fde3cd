"""The command line: arguments and help of every command."""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

DESCRIPTION = (
    "Distils an image data set into a few learned images per class, by neural feature regression"
    " (FRePo, NeurIPS 2022)."
)
OVERRIDES = (
    "Any setting of a recipe can be changed for one run: --gin.IPC=10 --gin.DATASET=cifar10."
    " `frepo-scale settings` lists them. Strings need no quotes."
)
_DEBUG = "show the traceback of an error"
_RECIPE: dict[str, Any] = {
    "metavar": "RECIPE",
    "help": "a .gin file, or the name of one under gin/",
}


class _Version(argparse.Action):
    """Prints the versions of this program and of the libraries that compute."""

    def __call__(self, *_: object) -> NoReturn:
        from frepo_scale.core.versions import version_line

        print(version_line())
        raise SystemExit(0)


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as InputError: one line, without the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses unknown arguments here, where the options of the command are known."""
        from frepo_scale.core.errors import close_names

        found, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [name for action in self._actions for name in action.option_strings]
            self._refuse(f"unknown argument {rest[0]}", close_names(rest[0], options))
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raises InputError for a message of argparse."""
        from frepo_scale.core.errors import close_names

        wrong = re.match(r"argument COMMAND: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"[a-z]+", wrong[2])
            self._refuse(f"unknown command {wrong[1]}", close_names(wrong[1], known))
        self._refuse(message)

    def _refuse(self, what: str, fix: str = "") -> NoReturn:
        from frepo_scale.core.errors import InputError

        raise InputError(what, f"the arguments that {self.prog} --help lists", fix)


def parser() -> argparse.ArgumentParser:
    """The argument parser of `frepo-scale`."""
    top = _Parser(prog="frepo-scale", description=DESCRIPTION, epilog=OVERRIDES)
    top.add_argument("--version", action=_Version, nargs=0, help="show versions and exit")
    top.add_argument("--debug", action="store_true", default=False, help=_DEBUG)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adders = (_distill, _plan, _evaluate, _prepare, _status, _report, _export, _compare)
    for add in (*adders, _pretrain, _profile, _settings):
        add(commands)
    for command in commands.choices.values():
        # Without a default, which would replace a --debug before the command.
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
    return top


def _distill(commands: "argparse._SubParsersAction[Any]") -> None:
    distill = commands.add_parser(
        "distill",
        usage="%(prog)s RECIPE [--workdir DIR] [--gin.NAME=VALUE ...] [--dry-run [--devices N]]",
        help="run a recipe, or resume an interrupted run",
        description="Runs a recipe. The same command again resumes an interrupted run.",
        epilog=OVERRIDES,
    )
    distill.add_argument("recipe", **_RECIPE)
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
        metavar="N",
        help="with --dry-run: check the recipe for devices that are not here, without reading data:"
        " a number, or hardware such as v5e:4x4, h100:8, v5litepod-16, whose memory is checked too",
    )


def _pretrain(commands: "argparse._SubParsersAction[Any]") -> None:
    pretrain = commands.add_parser(
        "pretrain",
        usage="%(prog)s RECIPE --out FILE.safetensors [--nets K] [--gin.NAME=VALUE ...]",
        help="train nets on the training images, for a pool of frozen nets",
        description="Trains the recipe's net on the training images that are not held out, and"
        " writes its parameters for POOL_WEIGHTS. The same command again continues with the nets"
        " that have no file.",
        epilog="Longer training: --gin.PRETRAIN_STEPS=20000; other nets: --gin.SEED=1. `frepo-scale"
        " settings` lists all settings.",
    )
    pretrain.add_argument("recipe", **_RECIPE)
    pretrain.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the file to write, such as net.safetensors; with --nets 2 or more the files are"
        " net_0.safetensors, net_1.safetensors, ...",
    )
    pretrain.add_argument(
        "--nets", type=int, default=1, metavar="K", help="number of nets (default: 1)"
    )


def _prepare(commands: "argparse._SubParsersAction[Any]") -> None:
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
        "--workers", type=int, metavar="N", help="number of processes (default: one per core)"
    )
    prepare.add_argument(
        "--skip-bad",
        type=int,
        default=0,
        metavar="N",
        help="number of undecodable images that may be skipped; one more is an error (default: 0)",
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


def _status(commands: "argparse._SubParsersAction[Any]") -> None:
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
        help="for launchers: print 'NEW yes|no WORDS': a token of the progress now, whether there"
        " is progress since TOKEN (- at the first call), and the progress in words; WORKDIR may"
        " also be the --out of prepare",
    )


def _report(commands: "argparse._SubParsersAction[Any]") -> None:
    report = commands.add_parser(
        "report",
        help="write the report.html of a run again",
        description="Writes WORKDIR/report.html from what the run has written so far.",
    )
    report.add_argument("workdir", metavar="WORKDIR", help="workdir of a run")


def _profile(commands: "argparse._SubParsersAction[Any]") -> None:
    profile = commands.add_parser(
        "profile",
        help="profile the next steps of a run that is training",
        description="Asks a run that is training now for a profile of its next five steps."
        " `launch/tensorboard.sh WORKDIR` shows it (docs/how-to/profile.md).",
    )
    profile.add_argument("workdir", metavar="WORKDIR", help="workdir of the run")


def _settings(commands: "argparse._SubParsersAction[Any]") -> None:
    commands.add_parser(
        "settings",
        help="list every setting of a recipe with its default",
        description="Lists every setting of a recipe: name, default, meaning.",
    )


def _plan(commands: "argparse._SubParsersAction[Any]") -> None:
    from frepo_scale.jobs.plan_options import add_arguments

    plan = commands.add_parser(
        "plan",
        usage="%(prog)s RECIPE --on HARDWARE [--on HARDWARE ...] [--gin.NAME=VALUE ...] [options]",
        help="print memory, time and cost of a recipe on hardware that need not be here",
        description="Says what a recipe needs on a TPU slice or on GPUs: memory of a device, time"
        " and device-hours (docs/plan.md). No data are read and nothing is trained.",
        epilog=OVERRIDES,
    )
    add_arguments(plan)


def _evaluate(commands: "argparse._SubParsersAction[Any]") -> None:
    evaluate = commands.add_parser(
        "evaluate",
        usage="%(prog)s PATH [--dataset NAME] [--out DIR] ... [--gin.NAME=VALUE ...]",
        help="train fresh nets on a distilled set and test them",
        description="Trains fresh nets on a distilled set and tests them on the real test images."
        " The set is that of a finished run, an export, or a set of another program. The same"
        " command again resumes an interrupted evaluation.",
        epilog="A wider net: --gin.WIDTH=64; more nets: --gin.EVAL_NETS=20; the data:"
        " --gin.DATA_DIR=PATH. `frepo-scale settings` lists all settings.",
    )
    evaluate.add_argument(
        "target",
        metavar="PATH",
        help="workdir of a run, an export, a folder of class folders of images, an .npz with images"
        " and labels, or a .pt of PyTorch",
    )
    evaluate.add_argument(
        "--dataset",
        metavar="NAME",
        help="for a set of another program: the data set that it was made from, such as cifar10",
    )
    evaluate.add_argument(
        "--labels",
        metavar="FILE",
        help="for a set of another program: the labels, if they are in a file of their own",
    )
    evaluate.add_argument(
        "--normalised",
        nargs=2,
        metavar=("MEAN", "STD"),
        help="for a set of another program: how its images were normalised; one number, or one per"
        " channel separated by commas",
    )
    evaluate.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the result and the finished nets (default: the workdir, or"
        " PATH.evaluation beside the set)",
    )


def _export(commands: "argparse._SubParsersAction[Any]") -> None:
    export = commands.add_parser(
        "export",
        usage="%(prog)s WORKDIR [--format npz|folder|safetensors] --out PATH",
        help="write a distilled set for use elsewhere",
        description="Writes the distilled set of a finished run for use elsewhere.",
    )
    export.add_argument("workdir", metavar="WORKDIR", help="workdir of a finished run")
    export.add_argument(
        "--format",
        choices=("npz", "folder", "safetensors"),
        default="npz",
        help="npz: one file to train on elsewhere (default); folder: PNG images and their labels;"
        " safetensors: a folder for a model hub, with a data set card",
    )
    export.add_argument("--out", required=True, metavar="PATH", help="the .npz or folder to write")


def _compare(commands: "argparse._SubParsersAction[Any]") -> None:
    compare = commands.add_parser(
        "compare",
        help="show several runs, exports or evaluated sets side by side",
        description="Prints the accuracies of several finished runs, exports, or sets of other"
        " programs that `frepo-scale evaluate` has measured, and writes one HTML page with a table,"
        " the curves and the images.",
    )
    compare.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="at least two: the workdir of a finished run; an export (npz, folder or safetensors);"
        " or a set that `frepo-scale evaluate` has measured, or the folder of its --out",
    )
    compare.add_argument(
        "--out",
        metavar="FILE",
        default="compare.html",
        help="the page to write (default: compare.html)",
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
