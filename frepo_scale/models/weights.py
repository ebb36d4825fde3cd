"""Files with the parameters of one net, in the form of safetensors.

A file holds every array of the net's flax variables under its path, joined by dots:
`params.conv0.kernel`, and of nets with BatchNorm `batch_stats.norm1.mean`. Nothing in a file is
executed. `frepo-scale pretrain` writes such files; docs/how-to/frozen-nets.md shows how to write
one from any flax net.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import read_bytes, to_path
from frepo_scale.core.settings import declared_settings
from frepo_scale.core.tensors import metadata_of, numpy_files
from frepo_scale.models.registry import NetConfig

NET = "net"  # the key of the metadata that holds the `NetConfig` as JSON
_EVALUATION = ("evaluation_norm",)  # fields of `NetConfig` that do not change the net of a file


class NetFile(NamedTuple):
    """The content of a file.

    Attributes:
      path: of the file, as it was given.
      sha256: of its bytes.
      arrays: by name.
      metadata: of its header; may be empty.
    """

    path: str
    sha256: str
    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def sha256_of(path: str) -> str:
    """The sha256 of a file's bytes.

    Raises:
      InputError: it cannot be read.
    """
    return hashlib.sha256(_bytes_of(path)).hexdigest()


def read_net_file(path: str) -> NetFile:
    """Reads a file.

    Raises:
      InputError: safetensors is not installed, or the file is missing or damaged.
    """
    library, data = numpy_files(), _bytes_of(path)
    try:
        arrays = library.load(data)
        metadata = metadata_of(data)
    except Exception as error:  # of the library, for a damaged file
        raise InputError(
            f"{path} is damaged or no safetensors file ({error})",
            "a safetensors file with the parameters of a net",
            "copy it again, or write one with frepo-scale pretrain",
        ) from error
    return NetFile(path, hashlib.sha256(data).hexdigest(), arrays, metadata)


def write_net_file(path: Path, variables: Mapping[str, Any], metadata: dict[str, str]) -> None:
    """Writes a file, completely or not at all.

    Args:
      path: of the file; an existing one is replaced.
      variables: flax variables with `params` and, if there are any, `batch_stats`.
      metadata: of the header.

    Raises:
      InputError: safetensors is not installed, or `path` cannot be written.
    """
    flat = flatten_dict({name: tree for name, tree in variables.items() if tree}, sep=".")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    data = numpy_files().save(arrays, metadata)
    with whole_file(path) as file:
        file.write(data)


def variables_of(
    file: NetFile, config: NetConfig, module: nn.Module, image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """The flax variables in a file, after a check against a net.

    Args:
      file: as read.
      config: the choice of the net, for the advice in an error.
      module: the net.
      image_shape: (H, W, C).

    Returns:
      `params` and `batch_stats` (empty for nets without running statistics), host arrays.

    Raises:
      InputError: an array is missing or unknown, or has another shape or type, or a value that is
        not finite or, of a running variance, below 0.
    """
    expected = _expected(module, image_shape)
    fix = _advice(file.metadata, config)
    for name in sorted(expected.keys() | file.arrays.keys()):
        if name not in file.arrays:
            raise InputError(
                f"{file.path} has no array {name}", f"{_kind(expected[name])}, of the net", fix
            )
        found = file.arrays[name]
        if name not in expected:
            raise InputError(
                f"{file.path}: the net has no array {name} {_kind(found)}",
                "the arrays of the net and no others",
                fix,
            )
        if (found.shape, found.dtype) != (expected[name].shape, expected[name].dtype):
            raise InputError(
                f"{file.path}: {name} is {_kind(found)}", f"{_kind(expected[name])}", fix
            )
        if not np.isfinite(found).all():
            raise InputError(f"{file.path}: {name} has values that are not finite", "finite values")
        # Of flax's BatchNorm: its square root would be NaN.
        if name.startswith("batch_stats.") and name.endswith(".var") and (found < 0).any():
            raise InputError(f"{file.path}: {name} has values below 0", "running variances")
    nested = unflatten_dict(file.arrays, sep=".")
    return {"params": nested["params"], "batch_stats": nested.get("batch_stats", {})}


def net_metadata(config: NetConfig) -> dict[str, str]:
    """The entry of a file's metadata that says which net it holds."""
    return {NET: json.dumps(asdict(config), sort_keys=True)}


def _expected(module: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    found = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    kept = {name: found[name] for name in ("params", "batch_stats") if found.get(name)}
    flat: dict[str, Any] = flatten_dict(kept, sep=".")
    return flat


def _advice(metadata: Mapping[str, str], config: NetConfig) -> str:
    """The settings with which a file was made, where they are not those of the recipe."""
    try:
        made = json.loads(metadata[NET])
        own = json.loads(json.dumps(asdict(config)))
        differing = [
            f"--gin.{declared.setting.macro}={made[name]}"
            for declared in declared_settings(NetConfig)
            if (name := declared.binding.partition(".")[2]) not in _EVALUATION
            and made[name] != own[name]
        ]
    except (KeyError, ValueError, TypeError):
        differing = []
    if differing:
        return "use the net that it holds: " + " ".join(differing)
    return "set NET, WIDTH, DEPTH, NORM and the data set to those of the file, or give another one"


def _kind(array: Any) -> str:
    return f"{np.dtype(array.dtype).name} {tuple(array.shape)}"


def _bytes_of(path: str) -> bytes:
    try:
        return read_bytes(to_path(path))
    except OSError as error:
        raise InputError(
            f"POOL_WEIGHTS: {path} cannot be read ({error.strerror or error})",
            "a safetensors file with the parameters of a net",
            "give its path, or write one with frepo-scale pretrain",
        ) from error
