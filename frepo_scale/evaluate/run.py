"""Runs the evaluations of a recipe on distilled sets and collects what goes to `result.json`."""

from collections.abc import Mapping
from typing import Any

from frepo_scale.core.errors import RunError
from frepo_scale.evaluate.evaluation import Evaluation, EvaluationContext
from frepo_scale.evaluate.registry import version_of


def evaluate_sets(
    evaluations: Mapping[str, Evaluation], context: EvaluationContext
) -> dict[str, Any]:
    """The scores of all evaluations, as `result.json` and `evaluation.json` hold them.

    Args:
      evaluations: by name, from `registry.load_evaluations`.
      context: what they work on.

    Returns:
      "evaluations": a list of {"name", "title", "rows"}; a row is {"key", "label", "mean", "std",
      "n"}, with "top5_mean" and "top5_std" where there are 100 classes or more, with
      "standard_error" where it is known, and with "curve" and "x" where it is a point of a curve.
      An evaluation with several tables is several entries of the list. The scores of
      `accuracy` are also found under their keys alone ("distilled", "distilled_last",
      "random_real", ...).

    Raises:
      Preempted: a stop was requested; finished nets are stored.
      RunError: an evaluation yielded two rows with the same key.
    """
    found: dict[str, Any] = {}
    results = []
    for name, evaluation in evaluations.items():
        rows: dict[str, dict[str, Any]] = {}
        tables: dict[str, list[dict[str, Any]]] = {}
        for measured in evaluation.run(context.named(f"{name}@{version_of(evaluation)}")):
            key, scores = measured.key, measured.score.as_dict()
            if key in rows:
                raise RunError(f"evaluation {name!r} yielded two rows with the key {key!r}")
            rows[key] = {"key": key, "label": measured.label, **scores}
            if measured.x is not None:
                rows[key] |= {"curve": measured.curve, "x": measured.x}
            tables.setdefault(measured.table or evaluation.title, []).append(rows[key])
            if name == "accuracy":
                found[key] = scores
        axis = {"x_label": getattr(evaluation, "x_label", "")} if _has_curves(rows) else {}
        results += [
            {"name": name, "title": title, "rows": part, **axis}
            for title, part in (tables or {evaluation.title: []}).items()
        ]
    if context.selected_by == "last step" and "distilled" in found:
        found["distilled_last"] = found["distilled"]  # one row in the table, but both keys
    return found | {"evaluations": results}


def _has_curves(rows: Mapping[str, Mapping[str, Any]]) -> bool:
    return any("x" in row for row in rows.values())
