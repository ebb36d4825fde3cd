"""What compilers said of a step is kept on disk, for the same program only."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from frepo_scale.plan import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "frepo-scale" / "plan"


def lowered(factor):
    return jax.jit(lambda x: jnp.sum(factor * x)).lower(jax.ShapeDtypeStruct((8,), jnp.float32))


def compiled(program, said, hardware="cpu"):
    return cache.compiled_step(program, hardware, 1, 1, said.append)


def test_the_second_time_nothing_is_compiled(folder):
    said = []
    first = compiled(lowered(2.0), said)
    assert not first.cached and first.cost is not None and first.cost.arguments == 32
    second = compiled(lowered(2.0), said)
    assert second == first._replace(cached=True)
    assert len(said) == 1
    assert not compiled(lowered(3.0), said).cached  # another program
    assert not compiled(lowered(2.0), said, "h100:1").cached  # other hardware
    assert len(list(folder.iterdir())) == 3


def test_damaged_files_are_ignored(folder):
    said = []
    first = compiled(lowered(2.0), said)
    (path,) = folder.iterdir()
    for text in ("", "{}", '{"cost": {"a": 1}, "collectives": [], "needed": 0}'):
        path.write_text(text)
        assert compiled(lowered(2.0), said) == first


def test_a_refusal_for_size_is_a_result(monkeypatch):
    class Refused:
        def as_text(self):
            return "module"

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.5G of 15.75G hbm.")

    assert compiled(Refused(), []).cost is None
    found = compiled(Refused(), [])
    assert found.cached and found.needed == 20.5 * 2**30

    class Broken(Refused):
        def as_text(self):
            return "another"

        def compile(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError):
        compiled(Broken(), [])


@pytest.mark.parametrize(
    "changed",
    [
        *({"cost": {"arguments": value, "temporary": 1, "operations": 1}} for value in ("1", None)),
        {"cost": {"arguments": float("nan"), "temporary": 1, "operations": 1}},
        {"cost": {"arguments": 1, "temporary": -1, "operations": 1}},
        {"collectives": [{"kind": 1, "axis": "data", "bytes": 4}]},
        {"collectives": [{"kind": "all-reduce", "axis": "data", "bytes": True}]},
        {"needed": float("inf")},
    ],
)
def test_entries_with_wrong_values_are_ignored(changed, folder):
    said = []
    first = compiled(lowered(2.0), said)
    (path,) = folder.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert compiled(lowered(2.0), said) == first and len(said) == 2


def test_the_program_is_counted_apart_and_entries_without_it_are_read(folder):
    first = compiled(lowered(2.0), [])
    assert first.cost.total == first.cost.arguments + first.cost.temporary + first.cost.code
    (path,) = folder.iterdir()
    earlier = {"arguments": 5, "temporary": 7, "operations": 1.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cost": earlier}))
    assert compiled(lowered(2.0), []).cost == cache.Cost(5, 7, 1.0, 0)


def test_a_long_compilation_says_that_it_goes_on(monkeypatch):
    class Slow:
        def as_text(self):
            return "slow"

        def compile(self):
            time.sleep(0.2)
            return lowered(2.0).compile()

    monkeypatch.setattr(cache, "_EVERY", 0.05)
    said = []
    compiled(Slow(), said)
    count = len(said)
    assert count >= 3 and all("still compiling" in line for line in said[1:])
    time.sleep(0.1)
    assert len(said) == count  # it ended with the compilation


def test_where_no_cache_can_be(monkeypatch, tmp_path):
    """A file in the place of the folder, a relative folder, and a user without a home."""
    said = []
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not compiled(lowered(2.0), said).cached
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "frepo-scale" / "plan"

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache.Path, "home", no_home)
    assert cache.cache_folder() is None
    assert not compiled(lowered(2.0), said).cached and len(said) == 2
