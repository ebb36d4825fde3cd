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
    stored: dict[str, Any], given: dict[str, Any], defaults: dict[str, Any] | None = None
) -> list[str]:
    """One phrase for every setting that differs, e.g. "distill.ipc was 1 and is now 10".

    Args:
      stored: the settings of the run in a workdir.
      given: the settings of the recipe.
      defaults: a setting that an earlier version did not have counts as its default.
    """
    stored = {k: v for k, v in (defaults or {}).items() if k in given} | stored
    # As JSON reads them back: a tuple is a list there.
    stored, given = (json.loads(json.dumps(settings)) for settings in (stored, given))
    for (name, old), new in _RENAMED_VALUES.items():
        if stored.get(name) == old:
            stored[name] = new

    def shown(side: dict[str, Any], name: str) -> str:
        return repr(side[name]) if name in side else "not set"

    return [
        f"{name} was {shown(stored, name)} and is now {shown(given, name)}"
        for name in sorted(stored.keys() | given.keys())
        if (name in stored, stored.get(name)) != (name in given, given.get(name))
    ]
