"""Files with the parameters of a net: what is read, and what is refused."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from frepo_scale.core.errors import InputError
from frepo_scale.core.tensors import numpy_files
from frepo_scale.models.registry import NetConfig, build_net
from frepo_scale.models.weights import (
    net_metadata,
    read_net_file,
    sha256_of,
    variables_of,
    write_net_file,
)

CONFIG = NetConfig(width=2, depth=2)
SHAPE = (8, 8, 3)
MODULE = build_net(CONFIG, 3, SHAPE)


def variables():
    """Random values in the shapes of the net; variances are positive."""
    images = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
    shapes = jax.eval_shape(lambda x: MODULE.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(size=leaf.shape).astype(np.float32), dict(shapes))


def save(path, arrays, metadata=None):
    path.write_bytes(numpy_files().save(arrays, metadata))
    return read_net_file(str(path))


def checked(file, config=CONFIG):
    return variables_of(file, config, build_net(config, 3, SHAPE), SHAPE)


def test_what_is_written_is_read(tmp_path):
    path, written = tmp_path / "new" / "net.safetensors", variables()
    write_net_file(path, written, {"recipe": "digits"} | net_metadata(CONFIG))
    file = read_net_file(str(path))
    assert file.sha256 == sha256_of(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.metadata["recipe"] == "digits"
    assert json.loads(file.metadata["net"]) == asdict(CONFIG)
    assert {"params.conv0.kernel", "params.head.bias", "batch_stats.norm1.var"} < {*file.arrays}
    read = checked(file)
    assert jax.tree.structure(read) == jax.tree.structure(written)
    jax.tree.map(np.testing.assert_array_equal, read, written)


def test_a_net_without_statistics(tmp_path):
    config = replace(CONFIG, norm="none")
    written = {"params": variables()["params"]}
    del written["params"]["norm1"]
    write_net_file(tmp_path / "net.safetensors", written, {})
    file = read_net_file(str(tmp_path / "net.safetensors"))
    assert checked(file, config)["batch_stats"] == {}
    with pytest.raises(InputError, match=r"batch_stats\.norm1\.mean"):
        checked(file)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("params.conv1.kernel", None, ["has no array", "float32 (3, 3, 2, 4)"]),
        ("params.other", np.zeros(5, np.float32), ["float32 (5,)"]),
        ("params.head.bias", np.zeros(7, np.float32), ["float32 (7,)", "float32 (3,)"]),
        ("params.head.bias", np.zeros(3), ["float64 (3,)", "float32 (3,)"]),
        ("batch_stats.norm1.var", np.full(2, np.nan, np.float32), ["not finite"]),
        ("batch_stats.norm1.var", np.array([1, -1e-3], np.float32), ["below 0"]),
    ],
)
def test_what_does_not_suit_the_net_is_refused_by_name(name, changed, words, tmp_path):
    arrays = flatten_dict(variables(), sep=".")
    if changed is None:
        del arrays[name]
    else:
        arrays[name] = changed
    file = save(tmp_path / "net.safetensors", arrays)
    with pytest.raises(InputError) as caught:
        checked(file)
    assert all(word in f"{caught.value}" for word in [file.path, name, *words])
    assert "\n" not in str(caught.value)


def test_the_advice_are_the_settings_of_the_file(tmp_path):
    file = save(
        tmp_path / "net.safetensors", flatten_dict(variables(), sep="."), net_metadata(CONFIG)
    )
    with pytest.raises(InputError) as caught:
        checked(file, replace(CONFIG, width=4, depth=3, evaluation_norm="none"))
    assert caught.value.fix.endswith(" --gin.WIDTH=2 --gin.DEPTH=2")


@pytest.mark.parametrize("content", [None, b"", b"\x08\0\0\0\0\0\0\0notjson!"])
def test_a_missing_or_damaged_file_is_refused(content, tmp_path):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_net_file(str(path))
    assert str(path) in caught.value.what


class Encoder(nn.Module):
    """A user's net: nested layers, no classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        x = nn.Sequential([nn.Conv(2, (3, 3)), nn.relu, nn.Conv(3, (3, 3), strides=4)])(images)
        return jnp.zeros((len(x), self.num_classes)), x.reshape(len(x), -1)


def test_the_writer_of_the_page_suits_a_net_of_the_users_own(tmp_path):
    page = Path(__file__).parents[2] / "docs/how-to/frozen-nets.md"
    writer = {}
    exec(re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[1], writer)
    module, shape, path = Encoder(3), (20, 12, 1), tmp_path / "own.safetensors"
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    written = jax.tree.map(lambda x: np.full(x.shape, 0.5, np.float32), dict(shapes))
    writer["write"](path, written)
    read = variables_of(read_net_file(str(path)), CONFIG, module, shape)
    jax.tree.map(np.testing.assert_array_equal, read["params"], written["params"])
