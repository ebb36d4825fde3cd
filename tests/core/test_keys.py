from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frepo_scale.core.keys import Purpose, key_for

_number = st.integers(0, 2**31 - 1)
_choice = st.tuples(_number, st.sampled_from(Purpose), st.lists(_number, max_size=3).map(tuple))


def _bits(key: jax.Array) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def _of(choice: tuple[int, Purpose, tuple[int, ...]]) -> tuple[int, ...]:
    seed, purpose, numbers = choice
    return _bits(key_for(seed, purpose, *numbers))


@settings(max_examples=100, deadline=None)
@given(_choice, _choice)
def test_keys_are_equal_where_the_choices_are(a: Any, b: Any) -> None:
    assert _of(a) == _of(a)
    assert (_of(a) == _of(b)) == (a == b)


def test_neighbours_do_not_share_keys() -> None:
    choices = [
        (seed, purpose, numbers)
        for seed in (0, 1)
        for purpose in Purpose
        for numbers in [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]
    ]
    assert len({_of(c) for c in choices}) == len(choices)


@settings(max_examples=5, deadline=None)  # each compiles
@given(_choice)
def test_traced_numbers_and_x64_change_nothing(choice: Any) -> None:
    seed, purpose, numbers = choice
    jitted = jax.jit(lambda s, n: key_for(s, purpose, *n))
    expected = _of(choice)
    assert _bits(jitted(jnp.int32(seed), [jnp.int32(n) for n in numbers])) == expected
    with jax.enable_x64(True):
        assert _of(choice) == expected


def test_keys_are_typed_scalars() -> None:
    key = key_for(0, Purpose.POOL_INIT, 3)
    assert key.shape == () and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def test_purposes_draw_unrelated_numbers() -> None:
    draws = [np.asarray(jax.random.normal(key_for(0, p, 0), (2000,))) for p in Purpose]
    for a, b in combinations(draws, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.12  # five standard deviations


def test_values_of_purposes_are_never_reused() -> None:
    # Part of the checkpoint format: a new purpose goes to the end.
    assert {p.name: p.value for p in Purpose} == {
        "SYNTHETIC_INIT": 0,
        "POOL_INIT": 1,
        "MEMBER_CHOICE": 2,
        "MEMBER_RESET": 3,
        "ONLINE_BATCH": 4,
        "EVALUATION_INIT": 5,
        "EVALUATION_BATCH": 6,
        "EVALUATION_AUGMENT": 7,
        "RANDOM_BASELINE": 8,
        "FINAL_INIT": 9,
        "FINAL_BATCH": 10,
        "FINAL_AUGMENT": 11,
        "ONLINE_COUNT": 12,
        "GRADIENT_ROWS": 13,
        "OUTER_AUGMENT": 14,
        "PRETRAIN_INIT": 15,
        "PRETRAIN_BATCH": 16,
        "PRETRAIN_AUGMENT": 17,
    }


@pytest.mark.parametrize(
    ("choice", "bits"),
    [
        ((0, Purpose.SYNTHETIC_INIT, ()), (1797259609, 2579123966)),
        ((7, Purpose.ONLINE_BATCH, (3, 5)), (1586837846, 296167453)),
    ],
)
def test_keys_never_change(choice: Any, bits: Any) -> None:
    assert _of(choice) == bits
