"""The identity of a run: its scientific settings.

A dataclass field with `metadata={"operational": True}` does not change the result (log period,
path of the data, workers); every other field does.
"""

import hashlib
import json
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

# Values of earlier versions and what they are called now.
_RENAMED_VALUES = {("data.images", "synthetic"): "noise"}


def scientific_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name to JSON value of every scientific field of a nested dataclass."""
    settings: dict[str, Any] = {}
    for field in fields(config):
        if field.metadata.get("operational"):
            continue
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        if is_dataclass(value):
            settings |= scientific_settings(value, f"{name}.")
        else:
            settings[name] = value
    return settings


def default_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name to default value of every scientific field that has a default."""
    settings: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            settings |= default_settings(value, f"{name}.")
        elif field.default is not MISSING:
            settings[name] = field.default
        elif field.default_factory is not MISSING:
            settings[name] = field.default_factory()
    return settings


def settings_sha256(settings: dict[str, Any]) -> str:
    """A fingerprint of scientific settings, independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def differences(
    there: dict[str, Any], here: dict[str, Any], defaults: dict[str, Any] | None = None
) -> list[str]:
    """One phrase for every setting that differs, e.g. "distill.ipc is 1 there and 10 here".

    Args:
      there: the settings of the run in a workdir.
      here: the settings of the recipe.
      defaults: a setting that an earlier version did not have counts as its default.
    """
    there = {k: v for k, v in (defaults or {}).items() if k in here} | there
    # As JSON reads them back: a tuple is a list there.
    there, here = (json.loads(json.dumps(settings)) for settings in (there, here))
    for (name, old), new in _RENAMED_VALUES.items():
        if there.get(name) == old:
            there[name] = new

    def shown(side: dict[str, Any], name: str) -> str:
        return repr(side[name]) if name in side else "not set"

    return [
        f"{name} is {shown(there, name)} there and {shown(here, name)} here"
        for name in sorted(there.keys() | here.keys())
        if (name in there, there.get(name)) != (name in here, here.get(name))
    ]
