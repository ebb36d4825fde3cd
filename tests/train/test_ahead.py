"""A step uses a program compiled ahead where it is for this step and this machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.ops.programs import store_program
from frepo_scale.parallel.loading import compiled_afresh, serialised
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.parallel.target import target_of
from frepo_scale.train.ahead import OUTER_STEP, shapes_of, text_sha256, with_program


def step_with(factor):
    def step(state, batch):
        return state * factor, {"loss": jnp.sum(batch)}

    return jax.jit(step, donate_argnums=0)


def arguments():
    return jnp.arange(3.0), jnp.ones(2)


def stored(folder, *, text_of=2.0, program_of=5.0, **changes):
    """A program of another factor, by which a test sees whether it ran."""
    lowered = step_with(text_of).lower(*shapes_of(arguments()))
    data = serialised(compiled_afresh(step_with(program_of).lower(*shapes_of(arguments()))))
    target = target_of(single_device_mesh()) | changes
    store_program(folder, OUTER_STEP, "cpu", target, text_sha256(lowered), data)


def factor_used(folder, capsys):
    """The factor of two calls, and what was printed at the first one."""
    step = with_program(step_with(2.0), folder, single_device_mesh())
    capsys.readouterr()
    state, metrics = step(*arguments())
    out = capsys.readouterr().out
    assert float(metrics["loss"]) == 2.0
    again, _ = step(*arguments())
    assert np.array_equal(state, again) and capsys.readouterr().out == ""
    return float(state[1]), out


def test_a_program_for_this_step_and_machine_is_used(tmp_path, capsys):
    stored(tmp_path)
    factor, out = factor_used(tmp_path, capsys)
    assert factor == 5.0
    assert out.count("\n") == 1 and "compiled ahead, for cpu" in out


def test_without_programs_nothing_is_said(tmp_path, capsys):
    assert factor_used(tmp_path / "none", capsys) == (2.0, "")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"jaxlib": "0.0.1"}, "jaxlib 0.0.1"),
        ({"mesh": "pool 4 x data 4"}, "pool 4 x data 4"),
        ({"processor": "another"}, "processor another"),
        ({"XLA_FLAGS": "--xla_x=1"}, "--xla_x=1"),
        ({"text_of": 3.0}, "other settings"),
    ],
)
def test_another_one_is_not_used_and_one_line_says_why(changes, named, tmp_path, capsys):
    stored(tmp_path, **changes)
    factor, out = factor_used(tmp_path, capsys)
    assert factor == 2.0
    assert out.count("\n") == 1 and named in out


def test_of_several_the_one_that_suits_is_used(tmp_path, capsys):
    stored(tmp_path)
    lowered = step_with(2.0).lower(*shapes_of(arguments()))
    store_program(tmp_path, OUTER_STEP, "a100:1", {"jax": "0"}, text_sha256(lowered), b"")
    assert factor_used(tmp_path, capsys)[0] == 5.0


def test_data_that_the_runtime_refuses_are_compiled_again(tmp_path, capsys):
    lowered = step_with(2.0).lower(*shapes_of(arguments()))
    target = target_of(single_device_mesh())
    store_program(tmp_path, OUTER_STEP, "cpu", target, text_sha256(lowered), b"no program")
    factor, out = factor_used(tmp_path, capsys)
    assert factor == 2.0 and out.count("\n") == 1
