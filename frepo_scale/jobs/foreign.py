"""Recipes that came with a file of somebody else: they do not decide what Python imports."""

from collections.abc import Mapping

from frepo_scale.core.errors import InputError
from frepo_scale.evaluate.named_nets import named_nets
from frepo_scale.jobs.settings import RunConfig

_OWN = "frepo_scale."


def check_no_code(name: str, config: RunConfig, given: Mapping[str, str]) -> None:
    """Refuses classes that only the text of a run or an export names.

    Evaluating a set imports the net that its recipe names. The recipe of an export or of a copied
    workdir may come from anybody, and importing a module runs its code.

    Args:
      name: of the recipe, for the error message.
      config: the settings.
      given: the settings of the command line by name, as they were typed.

    Raises:
      InputError: a setting holds the dotted path of a class and the command line does not.
    """
    named = {
        ("NET", "Net.name"): [config.net.name],
        ("ALGORITHM", "Algorithm.name"): [config.algorithm.name],
        ("DATA_SOURCE", "Data.images"): [config.data.images],
        ("EVALUATIONS", "Evaluation.evaluations"): config.evaluation.evaluations,
        ("CROSS_NETS", "Evaluation.cross_nets"): [
            net.name
            for net in named_nets(config.evaluation.cross_nets, config.net).values()
            if net.name != config.net.name  # which is checked above
        ],
    }
    for (setting, binding), paths in named.items():
        for path in paths:
            if "." not in path or path.startswith(_OWN) or setting in given or binding in given:
                continue
            value = f'"{paths}"' if setting in ("EVALUATIONS", "CROSS_NETS") else path
            raise InputError(
                f"{setting} = {path!r} in the recipe of {name}",
                "classes of your own to be named on the command line: importing one runs its code",
                f"if you trust it, use --gin.{setting}={value}",
            )
