"""Classes that a recipe names by a dotted path."""

import importlib
from typing import TypeVar

from frepo_scale.core.errors import InputError

_Class = TypeVar("_Class")


def import_class(setting: str, path: str, base: type[_Class]) -> type[_Class]:
    """The class at `module.Class`.

    Args:
      setting: the public name of the setting that holds the path, for error messages.
      path: the dotted path.
      base: what the class must be a subclass of.

    Raises:
      InputError: it cannot be imported, or is no subclass of `base`.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the file of a user can fail in any way while it is imported
        raise InputError(
            f"{setting} = {path!r} cannot be imported ({error})",
            "the path module.Class of a class that Python can import",
            "add the folder of the module to PYTHONPATH",
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        expected = f"a subclass of {base.__module__}.{base.__qualname__}"
        raise InputError(f"{setting} = {path!r} is {found!r}", expected)
    return found
