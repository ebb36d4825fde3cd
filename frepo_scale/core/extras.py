"""Errors for packages that are optional, with the extra of pyproject.toml that brings them."""

import sys

from frepo_scale.core.errors import InputError
from frepo_scale.core.versions import PACKAGE

_TORCH_FOR_CPUS = 'PyTorch\'s page "Start locally" has a smaller build for CPUs'


def not_installed(
    what: str, package: str, further: str = "", *, extra: str | None = None
) -> InputError:
    """The error for a package that cannot be imported.

    Args:
      what: where it is needed.
      package: its name.
      further: what else the user can do.
      extra: the extra that brings it; None: of the same name.
    """
    fix = f"install the extra: {sys.executable} -m pip install '{PACKAGE}[{extra or package}]'"
    if package == "torch":
        fix += f" ({_TORCH_FOR_CPUS})"
    return InputError(what, f"the package {package}", fix + further)
