"""Digests detect every change of a state, and nothing else."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.ops.digest import digests

# One state with every kind of leaf, so that hypothesis needs one compilation.
_LEAVES: dict[str, tuple[type | np.dtype, tuple[int, ...]]] = {
    "float32": (np.float32, (3, 2)),
    "float64": (np.float64, (5,)),
    "int32": (np.int32, ()),
    "int64": (np.int64, (2,)),
    "int8": (np.int8, (3,)),
    "bool": (np.bool_, (7,)),
    "bfloat16": (jnp.dtype(jnp.bfloat16), (2, 3)),
    "float16": (np.float16, (1,)),
    "scalar": (np.float32, ()),
    "empty": (np.float32, (0, 4)),
    "keys": (np.uint32, (2, 2)),  # the data of two typed keys
}
_SIZES = {k: int(np.prod(s)) * np.dtype(d).itemsize for k, (d, s) in _LEAVES.items()}


def _state(content: dict[str, bytes]) -> dict[str, jax.Array]:
    state = {}
    for name, (dtype, shape) in _LEAVES.items():
        raw = np.frombuffer(content[name], np.uint8)
        if name == "bool":
            raw = raw & 1
        x = jnp.asarray(raw.view(dtype).reshape(shape))
        assert x.dtype == dtype  # float64 and int64 only with x64 on
        state[name] = jax.random.wrap_key_data(x) if name == "keys" else x
    return state


@st.composite
def _content_and_flip(draw: st.DrawFn) -> tuple[dict[str, bytes], str, int]:
    content = {k: draw(st.binary(min_size=n, max_size=n)) for k, n in _SIZES.items()}
    name = draw(st.sampled_from([k for k, n in _SIZES.items() if n]))
    bits = range(0, 8 * _SIZES[name], 8 if name == "bool" else 1)  # a bool has one bit
    return content, name, draw(st.sampled_from(bits))


@settings(max_examples=300, deadline=None)
@given(_content_and_flip())
def test_a_flipped_bit_changes_the_digest_of_its_leaf_only(
    case: tuple[dict[str, bytes], str, int],
) -> None:
    content, name, bit = case
    flipped = bytearray(content[name])
    flipped[bit // 8] ^= 1 << bit % 8
    with jax.enable_x64(True):
        before = digests(_state(content))
        again = digests(_state(content))
        after = digests(_state(content | {name: bytes(flipped)}))
    assert before == again
    assert {k for k in before if before[k] != after[k]} == {name}


_WORDS = 64


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=_WORDS, max_size=_WORDS),
    st.integers(0, _WORDS - 1),
    st.integers(1, _WORDS - 1),
    st.one_of(st.integers(1, 2**32 - 1), st.integers(0, 31).map(lambda k: 1 << k)),
)
def test_swapping_two_unequal_words_changes_the_digest(
    words: list[int], p: int, distance: int, difference: int
) -> None:
    q = (p + distance) % _WORDS
    words[q] = words[p] ^ difference  # also words that differ in one bit, like x and -x
    swapped = list(words)
    swapped[p], swapped[q] = words[q], words[p]
    assert digests([jnp.asarray(words, jnp.uint32)]) != digests([jnp.asarray(swapped, jnp.uint32)])


def test_every_pair_of_flipped_signs_changes_the_digest() -> None:
    x = np.arange(1, 41, dtype=np.float32)
    found = {digests([jnp.asarray(x)])["0"]}
    pairs = [(p, q) for p in range(40) for q in range(p)]
    for p, q in pairs:
        y = x.copy()
        y[[p, q]] *= -1
        found.add(digests([jnp.asarray(y)])["0"])
    assert len(found) == len(pairs) + 1


def test_digests_name_path_dtype_and_shape() -> None:
    state = {"a": (jnp.zeros((2, 3)), jnp.zeros((6,))), "k": jax.random.key(0)}
    found = digests(state)
    assert list(found) == ["a/0", "a/1", "k"]
    assert found["a/0"].startswith("float32[2, 3]:") and found["a/1"].startswith("float32[6]:")
    assert found["k"].startswith("key<fry>[]:")
    values = {d.split(":")[1] for d in digests([jnp.zeros((n,)) for n in range(5)]).values()}
    assert len(values) == 5  # also zeros count


def test_equal_bits_have_equal_digests_wherever_they_are() -> None:
    assert digests([np.float32([1, 2])]) == digests([jnp.float32([1, 2])])
    assert digests([jnp.float32(0.0)]) != digests([jnp.float32(-0.0)])


_SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from frepo_scale.ops import digest
assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
rng = np.random.default_rng(0)
whole = {
    "x": jnp.asarray(rng.normal(size=(8, 4, 6)), jnp.float32),
    "h": jnp.asarray(rng.normal(size=(16, 8)), jnp.bfloat16),
    "k": jax.random.split(jax.random.key(1), 8),
}
expected = digest.digests(whole)
specs = [P(), P("a"), P("b"), P(("a", "b")), P("a", "b"), P("b", "a"), P(None, "b")]
for spec in specs:
    put = {}
    for name, x in whole.items():
        fits = P(*spec[: x.ndim])
        put[name] = jax.device_put(x, NamedSharding(mesh, fits))
    assert digest.digests(put) == expected, spec
    leaves = list(put.values())
    sharded = tuple(map(digest._sharded_axes, leaves))
    text = digest._digests.lower(leaves, sharded).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text, spec
print("same")
"""


@pytest.mark.slow
def test_digest_does_not_depend_on_the_sharding_and_gathers_nothing() -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, "-c", _SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"
