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
      "n"}, with "top5_mean" and "top5_std" where there are 100 classes or more, and with the facts
      that the evaluation gives (see `Measurement`). The scores of
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
        named = context.named(f"{name}@{version_of(evaluation)}")
        for key, label, score, facts in evaluation.run(named):
            if key in rows:
                raise RunError(f"evaluation {name!r} yielded two rows with the key {key!r}")
            rows[key] = {"key": key, "label": label, **score.as_dict(), **facts}
            if name == "accuracy":
                found[key] = score.as_dict()
        results.append({"name": name, "title": evaluation.title, "rows": list(rows.values())})
    if context.selected_by == "last step" and "distilled" in found:
        found["distilled_last"] = found["distilled"]  # one row in the table, but both keys
    return found | {"evaluations": results}
