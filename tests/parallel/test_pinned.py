"""Options of JAX that a run fixes."""

import threading

import jax
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.parallel.pinned import PINNED, pinned

OTHERS = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 7,
    "jax_enable_x64": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_explicit_x64_dtypes": "allow",
    "jax_default_device": "cpu",
}


def present():
    return {name: jax.config.values[name] for name in PINNED if name in jax.config.values}


@pytest.fixture
def other_values():
    before = present()
    for name, value in OTHERS.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_every_option_has_its_value_in_all_threads_and_is_as_before_afterwards(
    other_values, capsys, monkeypatch
):
    monkeypatch.setenv("JAX_ENABLE_X64", "yes")
    before, seen = present(), {}

    def look():
        seen["bits"] = jax.random.key_data(jax.random.key(3)).tolist()
        seen["type"] = str(jax.numpy.asarray(1.5).dtype)

    with pinned():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == {"bits": [0, 3], "type": "float32"}
    assert present() == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(OTHERS)
    for name in OTHERS:
        assert sum(name in line for line in lines) == 1
    assert any("JAX_ENABLE_X64=yes" in line for line in lines)


def test_nothing_is_said_where_nothing_differs(capsys):
    before = present()
    with pinned():
        assert present() == before
    assert capsys.readouterr().err == ""


def test_options_are_as_before_after_an_error(other_values):
    before = present()
    with pytest.raises(ZeroDivisionError), pinned():
        raise ZeroDivisionError
    assert present() == before


def test_a_context_of_the_caller_that_hides_an_option_is_refused():
    before = present()
    with jax.enable_x64(True):
        with pytest.raises(InputError) as refused, pinned():
            raise AssertionError("entered")
        assert "jax_enable_x64 = True" in refused.value.what
    assert present() == before


def test_a_key_is_the_same_under_every_generator():
    usual = jax.random.key_data(key_for(5, Purpose.POOL_INIT, 2)).tolist()
    with jax.default_prng_impl("rbg"):
        assert jax.random.key_data(key_for(5, Purpose.POOL_INIT, 2)).tolist() == usual
