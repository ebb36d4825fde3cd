"""A serialised program takes the place of a compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.parallel.loading import CannotLoadError, compiled_afresh, load, serialised

OPTIONS = ("jax_compilation_cache_dir", "jax_raise_persistent_cache_errors")
X = jax.ShapeDtypeStruct((3,), jnp.float32)


def lowered(factor):
    def step(x):
        return factor * x

    return jax.jit(step).lower(X)


def options():
    return {name: jax.config.values[name] for name in OPTIONS}


def test_the_program_that_runs_is_that_of_the_data(tmp_path):
    """Data of another function with the same types show that nothing is compiled."""
    before = options()
    lowered(5.0).compile()  # JAX's cache has it now: what comes from there cannot be serialised
    jax.clear_caches()
    program = load(lowered(2.0), serialised(compiled_afresh(lowered(5.0))), tmp_path)
    assert np.array_equal(program(jnp.ones(3)), np.full(3, 5.0))
    assert options() == before
    # Later compilations ask the usual cache again.
    assert np.array_equal(lowered(2.0).compile()(jnp.ones(3)), np.full(3, 2.0))
    assert list(tmp_path.iterdir()) == []


def test_data_that_the_runtime_refuses(tmp_path):
    before = options()
    for data in (b"", b"no program"):
        with pytest.raises(CannotLoadError):
            load(lowered(2.0), data, tmp_path)
        assert options() == before


def test_without_a_compilation_cache_it_says_so(tmp_path):
    data = serialised(compiled_afresh(lowered(2.0)))
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with pytest.raises(CannotLoadError, match="jax_enable_compilation_cache"):
            load(lowered(2.0), data, tmp_path)
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
