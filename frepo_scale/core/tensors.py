"""The package safetensors, which is an optional dependency, and the metadata of its files."""

import json
from typing import Any

from frepo_scale.core.extras import not_installed


def numpy_files() -> Any:
    """The module `safetensors.numpy`: `save(arrays, metadata)` and `load(data)`, both of bytes.

    Raises:
      InputError: safetensors is not installed.
    """
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise not_installed("safetensors is not installed", "safetensors") from error
    return safetensors.numpy


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata in the header of a safetensors file that `numpy_files().load` could read."""
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return found
