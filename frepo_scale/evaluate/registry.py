"""Imports and checks the evaluations named in `EVALUATIONS`, before compute is spent."""

import hashlib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frepo_scale.core.dotted import import_class
from frepo_scale.core.errors import InputError, nearest

if TYPE_CHECKING:
    from frepo_scale.evaluate.evaluation import Evaluation, Task

# Name in a recipe: dotted path of the class. A new evaluation is one module and one line here.
EVALUATIONS = {
    "accuracy": "frepo_scale.evaluate.accuracy.Accuracy",
    "continual": "frepo_scale.evaluate.continual.Continual",
    "membership": "frepo_scale.evaluate.membership.Membership",
    "cross_architecture": "frepo_scale.evaluate.cross_architecture.CrossArchitecture",
    "robustness": "frepo_scale.evaluate.robustness.Robustness",
    "scores": "frepo_scale.evaluate.scores.Scores",
    "linear_probe": "frepo_scale.evaluate.linear_probe.LinearProbe",
}


def check_evaluations(names: Any) -> list[str]:
    """The names as a list, without an import.

    Raises:
      InputError: not a list of different names, or a name that is neither registered nor a dotted
        path.
    """
    expected = "a list of names of evaluations"
    if isinstance(names, str):
        meant = [name.strip() for name in names.split(",")]
        unknown = [name for name in meant if "." not in name and name not in EVALUATIONS]
        fix = nearest(unknown[0], EVALUATIONS) if unknown else f'use --gin.EVALUATIONS="{meant!r}"'
        raise InputError(f"EVALUATIONS = {names!r}", expected, fix)
    if not isinstance(names, list | tuple) or not names:
        raise InputError(f"EVALUATIONS = {names!r}", expected)
    for name in names:
        if not isinstance(name, str) or ("." not in name and name not in EVALUATIONS):
            raise InputError(
                f"EVALUATIONS = {names!r}: {name!r} is unknown",
                "the name of an evaluation or the dotted path of a class",
                nearest(str(name), EVALUATIONS),
            )
        if names.count(name) > 1:
            raise InputError(f"EVALUATIONS = {names!r}", "each name once")
    return list(names)


def load_evaluations(names: Sequence[str], task: "Task | None" = None) -> dict[str, "Evaluation"]:
    """The evaluations by name, in order. To be called before a run starts.

    Args:
      names: registered names, or dotted paths of classes with a `title` and a method `run` (see
        `evaluation.Evaluation`) that can be constructed without arguments.
      task: what the evaluations check themselves against; None: no checks.

    Raises:
      InputError: a class cannot be imported, is not an evaluation, or cannot evaluate the task.
    """
    evaluations = {name: _load(name) for name in names}
    for evaluation in evaluations.values():
        check = getattr(evaluation, "check", None)
        if task is not None and check is not None:
            check(task)
    return evaluations


def _load(name: str) -> "Evaluation":
    cls = import_class("EVALUATIONS", EVALUATIONS.get(name, name), object)
    try:
        evaluation: Any = cls()
    except Exception as error:  # a user's class can fail in any way
        raise InputError(
            f"EVALUATIONS: {name!r} cannot be constructed ({error})",
            "a class that needs no arguments",
        ) from error
    run, title = getattr(evaluation, "run", None), getattr(evaluation, "title", None)
    if not callable(run) or not isinstance(title, str):
        raise InputError(
            f"EVALUATIONS: {name!r} is not an evaluation",
            "a class with a title (text) and a method run(context)",
        )
    checked: Evaluation = evaluation
    return checked


def version_of(evaluation: "Evaluation") -> str:
    """A fingerprint of the source file of an evaluation: "" where it has none.

    Accuracies stored by an older version of the file are not used again.
    """
    try:
        return file_version(inspect.getsourcefile(type(evaluation)) or "")
    except TypeError:  # a class that no file defines
        return ""


def file_version(path: str) -> str:
    """A fingerprint of a file: "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:12]
    except OSError:
        return ""
