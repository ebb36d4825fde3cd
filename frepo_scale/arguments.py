"""Arguments of the commands for finished sets: evaluate, export, compare."""

import argparse
from typing import Any


def add_evaluate(commands: "argparse._SubParsersAction[Any]") -> None:
    """`frepo-scale evaluate`."""
    evaluate = commands.add_parser(
        "evaluate",
        usage="%(prog)s PATH [--dataset NAME] [--labels FILE] ... [--gin.NAME=VALUE ...]",
        help="train fresh nets on a distilled set and test them",
        description="Trains fresh nets on a distilled set and tests them: on that of a finished"
        " run, on an export, or on a set of another program.",
        epilog="Another net: --gin.WIDTH=64; more nets: --gin.EVAL_NETS=20.",
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
        help="the data set that a set of another program was made from, such as cifar10",
    )
    evaluate.add_argument(
        "--labels", metavar="FILE", help="its labels, where they are in another file"
    )
    evaluate.add_argument(
        "--normalised",
        nargs=2,
        metavar=("MEAN", "STD"),
        help="how its images were normalised: numbers, or one per channel separated by commas",
    )


def add_export(commands: "argparse._SubParsersAction[Any]") -> None:
    """`frepo-scale export`."""
    export = commands.add_parser(
        "export",
        usage="%(prog)s WORKDIR [--format npz|folder|safetensors] --out PATH",
        help="write a distilled set for use elsewhere",
        description="Writes the distilled set of a finished run: one .npz with everything needed"
        " to train on it elsewhere, a folder of viewable PNG images with their labels, or a folder"
        " for a model hub.",
    )
    export.add_argument("workdir", metavar="WORKDIR", help="workdir of a finished run")
    export.add_argument(
        "--format",
        choices=("npz", "folder", "safetensors"),
        default="npz",
        help="default: npz; safetensors: a folder with a data set card",
    )
    export.add_argument("--out", required=True, metavar="PATH", help="the .npz or folder to write")


def add_compare(commands: "argparse._SubParsersAction[Any]") -> None:
    """`frepo-scale compare`."""
    compare = commands.add_parser(
        "compare",
        help="show several runs or exports side by side",
        description="Prints the accuracies of several finished runs or exports, and writes one HTML"
        " page with a table, the curves and the images.",
    )
    compare.add_argument(
        "paths", nargs="+", metavar="PATH", help="workdir of a finished run, or an export"
    )
    compare.add_argument(
        "--out",
        metavar="FILE",
        default="compare.html",
        help="the page to write (default: compare.html)",
    )
