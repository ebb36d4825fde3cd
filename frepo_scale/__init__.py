"""frepo_scale: dataset distillation by neural feature regression, at any scale.

    import frepo_scale as fs

    result = fs.distill("digits_ipc1", STEPS=200)     # runs a recipe, or resumes it
    distilled = fs.load("runs/digits_ipc1")           # also an exported .npz
    images, labels = distilled.to_torch()             # or to_numpy(), as_jax()
    scores = fs.evaluate("runs/digits_ipc1", EVAL_NETS=20)
    needs = fs.plan("imagenet1k_ipc10", topology="v5e:4x4")

Importing the package imports neither JAX nor anything else that is large.
"""

import importlib
import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frepo_scale.api import distill, evaluate, plan
    from frepo_scale.core.errors import InputError, Preempted, RunError
    from frepo_scale.export.loaded import LoadedSet, load

__all__ = [
    "InputError",
    "LoadedSet",
    "Preempted",
    "RunError",
    "distill",
    "evaluate",
    "load",
    "plan",
]

_FOUND_IN = {
    "InputError": "core.errors",
    "LoadedSet": "export.loaded",
    "Preempted": "core.errors",
    "RunError": "core.errors",
    "load": "export.loaded",
}


class _Command(types.ModuleType):
    """A sub-package that can be called: `fs.distill(...)` is `frepo_scale.api.distill(...)`.

    The packages `distill`, `evaluate` and `plan` have the names of the commands. Importing one of
    them binds its name here, which would replace a function of that name.
    """

    def _function(self) -> Callable[..., dict[str, Any]]:
        importlib.import_module("frepo_scale.parallel.failures").import_jax()
        api = importlib.import_module("frepo_scale.api")
        function: Callable[..., dict[str, Any]] = getattr(api, self.__name__.rpartition(".")[2])
        return function

    def __call__(self, *args: Any, **settings: Any) -> dict[str, Any]:
        """See the function of this name in `frepo_scale.api`."""
        return self._function()(*args, **settings)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """What `help(fs.distill)` shows: the text of the function, not of the package."""
        return inspect.getdoc(self._function())

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())


for _name in ("distill", "evaluate", "plan"):
    importlib.import_module(f"{__name__}.{_name}").__class__ = _Command


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("frepo_scale.core.versions").version()
    if name not in _FOUND_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"frepo_scale.{_FOUND_IN[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
