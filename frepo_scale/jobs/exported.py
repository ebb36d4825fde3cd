"""What an export says about the run that made it."""

import re
from typing import Any

# Settings that are paths, and what stands for them in a file for others.
_PATHS = {r"DATA_DIR|Data\.directory": "None", r"POOL_WEIGHTS|Pool\.weights": "()"}
_SETTINGS = ("DATA_DIR", "POOL_WEIGHTS")


def portable(text: str) -> str:
    """The text of a recipe without paths of this machine: `DATA_DIR = None`.

    Names of the user's own, of which a path is made, become None too.
    """
    used: list[str] = []
    for names, nothing in _PATHS.items():
        text = _without(text, rf"{names}", nothing, used)
    while used:
        text = _without(text, re.escape(used.pop()), "None", used)
    return text


def _without(text: str, names: str, nothing: str, used: list[str]) -> str:
    """The text with `nothing` for the values of some names; names in the values go to `used`."""

    def replaced(line: re.Match[str]) -> str:
        own = [name for name in re.findall(r"%([\w.]+)", line[2]) if name not in _SETTINGS]
        if not own and line[2].startswith("%"):  # `Data.directory = %DATA_DIR`
            return line[0]
        if line[2] != nothing:
            used.extend(own)
        return f"{line[1]} = {nothing}"

    # gin continues long values on lines that begin with spaces.
    return re.sub(rf"^({names}) = (.*(?:\n[ \t].*)*)", replaced, text, flags=re.MULTILINE)


def measured_later(evaluated: dict[str, Any]) -> dict[str, Any]:
    """What an export holds of `evaluation.json`: neither versions nor devices."""
    return {name: evaluated[name] for name in ("evaluations", "protocol") if name in evaluated}


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
