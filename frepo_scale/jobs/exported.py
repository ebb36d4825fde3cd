"""What an export says about the run that made it."""

import re
from typing import Any

# Settings that are paths, and what stands for them in a file for others.
_PATHS = {r"DATA_DIR|Data\.directory": "None", r"POOL_WEIGHTS|Pool\.weights": "()"}


def portable(text: str) -> str:
    """The text of a recipe without paths of this machine: `DATA_DIR = None`."""
    # gin continues long values on lines that begin with spaces.
    for names, nothing in _PATHS.items():
        path = re.compile(rf"^({names}) = (?!%).*(\n[ \t].*)*", re.MULTILINE)
        text = path.sub(rf"\1 = {nothing}", text)
    return text


def measured(scores: dict[str, Any], selected_by: str) -> dict[str, Any]:
    """The accuracies of a run for its export.

    Args:
      scores: see `evaluate.run.evaluate_sets`; other values are left out.
      selected_by: how the set was selected.

    Returns:
      Each accuracy as {"mean", "std", "n"}, fractions of the test images, by its name; also
      "evaluations" and "selected_by".
    """
    return {"selected_by": selected_by, "evaluations": scores.get("evaluations", [])} | {
        name: part for name, part in scores.items() if isinstance(part, dict) and "mean" in part
    }
