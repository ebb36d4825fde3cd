"""The record of what surrounds a run, and the agreement of several processes on it."""

import json

import jax
import pytest

from frepo_scale.core.errors import FailedElsewhere, InputError
from frepo_scale.core.versions import code_fingerprint
from frepo_scale.parallel import environment as module
from frepo_scale.parallel import runtime
from frepo_scale.parallel.environment import changes, check_same_environment, environment
from frepo_scale.parallel.mesh import single_device_mesh


def test_what_is_recorded(monkeypatch):
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    found = environment(single_device_mesh())
    assert found["code"] == code_fingerprint()
    assert found["jax"] == jax.__version__
    assert found["devices"] == "1 x cpu in 1 process(es)"
    assert int(found["cores"]) >= 1 and found["cpu"] and "openblas" in found["blas"]
    assert all(isinstance(text, str) and "\n" not in text for text in found.values())
    assert not found.keys() & (set(module.RECORDED) | set(module.VARIABLES))
    assert json.loads(json.dumps(found)) == found
    assert changes(found, environment(single_device_mesh())) == []
    assert changes(found, found | {"commit": "0123456789ab-dirty"}) == []  # the code is compared


def test_flags_that_change_numbers_are_recorded_in_any_order(monkeypatch):
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_b=1 --xla_force_host_platform_device_count=8 --xla_a --xla_dump_to=/x"
    )
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    found = environment(single_device_mesh())
    assert found["XLA_FLAGS"] == "--xla_a --xla_b=1"
    assert found["NVIDIA_TF32_OVERRIDE"] == "0"


@pytest.mark.parametrize(
    ("name", "value"), [("jax_disable_most_optimizations", True), ("jax_optimization_level", "O1")]
)
def test_an_option_that_is_not_at_its_default_is_recorded(name, value):
    usual, before = environment(single_device_mesh()), jax.config.values[name]
    jax.config.update(name, value)
    try:
        now = environment(single_device_mesh())
    finally:
        jax.config.update(name, before)
    assert now == usual | {name: str(value)}
    (phrase,) = changes(usual, now)
    assert name in phrase and str(value) in phrase


@pytest.mark.parametrize("first", [True, False])
def test_the_processes_that_differ_are_named(first, monkeypatch):
    others = [{"jax": "1"}, {"jax": "1"}, {"jax": "2"}, {"jax": "1", "XLA_FLAGS": "--a"}]
    texts = [json.dumps({"host": f"node{n}", "environment": e}) for n, e in enumerate(others)]
    monkeypatch.setattr(runtime, "process_count", lambda: 4)
    monkeypatch.setattr(runtime, "is_first", lambda: first)
    monkeypatch.setattr(module, "gathered", lambda text: texts)
    with pytest.raises(InputError if first else FailedElsewhere) as ended:
        check_same_environment()
    if first:
        what = ended.value.what
        assert "process 2 on node2: jax is '2' and '1' in process 0" in what
        assert "process 3 on node3: XLA_FLAGS is '--a' and None" in what
        assert "process 1" not in what
    else:
        assert ended.value.code == 2
    monkeypatch.setattr(module, "gathered", lambda text: texts[:2])
    check_same_environment()
