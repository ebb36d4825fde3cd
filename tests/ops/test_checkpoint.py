"""Checkpoints are restored bit for bit, or refused, and then the one before is used."""

import errno
import gc
import json
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frepo_scale.core.errors import RunError
from frepo_scale.ops import checkpoint
from frepo_scale.ops.checkpoint import KEPT, Checkpointer
from frepo_scale.ops.digest import digests

# Orbax abandons the other reads after a failed one; they may print errors.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class _State(NamedTuple):
    x: jax.Array
    h: jax.Array
    flags: jax.Array
    count: jax.Array
    key: jax.Array
    optimiser: Any
    nested: dict[str, tuple[jax.Array, ...]]


def _state(seed: int) -> _State:
    rng = np.random.default_rng(seed)
    # Noise does not compress: damage in the file is damage in the values, not in a codec.
    x = jnp.asarray(rng.normal(size=(40, 50)), jnp.float32)
    optimiser = optax.chain(optax.scale_by_adam(), optax.trace(0.9)).init(x)
    optimiser = jax.tree.map(lambda leaf: leaf + jnp.asarray(seed + 1, leaf.dtype), optimiser)
    return _State(
        x,
        jnp.asarray([0.1, -0.0, float("nan"), float("inf")], jnp.bfloat16),
        jnp.asarray([True, False, True]),
        jnp.int32(seed - 7),
        jax.random.key(seed),
        optimiser,
        {"a": (jnp.float32(seed),), "b": ()},
    )


def _same(a: Any, b: Any) -> bool:
    def raw(leaf: jax.Array) -> tuple[Any, ...]:
        data = leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf)
        return str(leaf.dtype), leaf.shape, np.asarray(data).tobytes()

    same = jax.tree.map(lambda x, y: raw(x) == raw(y), a, b)  # raises where structures differ
    return all(jax.tree.leaves(same))


@contextmanager
def _opened(directory: Path) -> Iterator[Checkpointer]:
    checkpointer = Checkpointer(directory)
    yield checkpointer
    checkpointer.close()


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # or it prints in tests of other modules


@pytest.fixture(scope="module")
def _two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    with _opened(folder) as checkpointer:
        for step in (10, 20):
            checkpointer.save(step, _state(step), {"probed": step})
    return folder


@pytest.fixture
def two(_two: Path, tmp_path: Path) -> Path:
    """A folder with the checkpoints 10 and 20, to be damaged."""
    return Path(shutil.copytree(_two, tmp_path / "checkpoints"))


def test_state_and_facts_come_back_bit_for_bit(tmp_path: Path) -> None:
    facts = {"probed": -1, "seconds": 0.5, "settings": {"a": [1, None]}, "text": "x = 'ü'\n"}
    with _opened(tmp_path / "new" / "checkpoints") as checkpointer:
        assert checkpointer.restore(_state(0)) is None and checkpointer.latest() is None
        checkpointer.save(3, _state(3), facts)
    with _opened(tmp_path / "new" / "checkpoints") as checkpointer:
        assert checkpointer.latest() == 3
        restored = checkpointer.restore(_state(0))
    assert restored is not None and restored.step == 3 and restored.damaged == ()
    assert restored.meta == facts
    assert _same(restored.state, _state(3)) and not _same(restored.state, _state(4))
    assert type(restored.state) is _State
    assert jax.tree.structure(restored.state) == jax.tree.structure(_state(0))


def test_shapes_are_enough_to_restore(two: Path) -> None:
    with _opened(two) as checkpointer:
        restored = checkpointer.restore(jax.eval_shape(lambda: _state(0)))
    assert restored is not None and _same(restored.state, _state(20))


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    with _opened(tmp_path) as checkpointer:
        for step in (0, 1, 5, 9):
            checkpointer.save(step, {"x": jnp.full(3, step)}, {"at": step})
        checkpointer.wait()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["5", "9"] and KEPT == 2
        restored = checkpointer.restore({"x": jnp.zeros(3, jnp.int32)})
    assert restored is not None and restored.step == 9 and restored.meta == {"at": 9}


def test_a_saved_state_may_be_donated_at_once(tmp_path: Path) -> None:
    @partial(jax.jit, donate_argnums=0)
    def step(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return jax.tree.map(lambda x: x * 3 + 1, state)

    def start() -> dict[str, jax.Array]:
        many = {f"small{i}": jnp.full((17, 5), i, jnp.uint32) for i in range(20)}
        return {"large": jnp.arange(1 << 20, dtype=jnp.uint32)} | many

    expected = {k: np.asarray(v).copy() for k, v in start().items()}
    state = start()
    with _opened(tmp_path) as checkpointer:
        for at in range(0, 90, 30):
            checkpointer.save(at, state, {})
            saved = {k: v.copy() for k, v in expected.items()}
            for _ in range(30):  # the write is still under way in the first of these
                before, state = state["large"], step(state)
                expected = {k: v * 3 + 1 for k, v in expected.items()}
            assert before.is_deleted()  # buffers are reused indeed
            checkpointer.wait()
            restored = checkpointer.restore(state)
            assert restored is not None and restored.step == at and not restored.damaged
            for name, values in saved.items():
                np.testing.assert_array_equal(np.asarray(restored.state[name]), values)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.asarray(state[name]), values)


# Damage ---------------------------------------------------------------------------------------


def _files(step: Path) -> list[Path]:
    return sorted(p for p in step.rglob("*") if p.is_file())


def _largest(step: Path) -> Path:
    """The file with the arrays' data."""
    return max(_files(step), key=lambda p: p.stat().st_size)


def _truncate(step: Path) -> None:
    with _largest(step).open("r+b") as file:
        file.truncate(_largest(step).stat().st_size // 2)


def _empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def _rewrite_meta(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(step: Path) -> None:
        path = step / "meta" / "metadata"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def _swapped(meta: dict[str, Any]) -> dict[str, Any]:
    first, second, *rest = meta["arrays"]
    return meta | {"arrays": [second, first, *rest]}


def _older_digests(step: Path) -> None:
    shutil.rmtree(step / "digests")
    shutil.copytree(step.parent / "10" / "digests", step / "digests")


_DAMAGES: dict[str, Callable[[Path], None]] = {
    "data truncated": _truncate,
    "data emptied": lambda step: _largest(step).write_bytes(b""),
    "data deleted": lambda step: _largest(step).unlink(),
    "state deleted": lambda step: shutil.rmtree(step / "state"),
    "meta deleted": lambda step: shutil.rmtree(step / "meta"),
    "meta garbage": lambda step: (step / "meta" / "metadata").write_bytes(b"\x00\xff{"),
    "meta empty": lambda step: (step / "meta" / "metadata").write_bytes(b""),
    "meta without arrays": _rewrite_meta(lambda meta: {"facts": meta["facts"]}),
    "meta with arrays missing": _rewrite_meta(lambda meta: meta | {"arrays": []}),
    "meta with arrays in another order": _rewrite_meta(_swapped),
    "digests deleted": lambda step: shutil.rmtree(step / "digests"),
    "digests of an older checkpoint": _older_digests,
    "meta a list": _rewrite_meta(lambda meta: [1]),
    "folder emptied": _empty,
}


@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES)
def test_a_damaged_newest_is_named_and_the_older_one_used(
    two: Path, damage: Callable[[Path], None]
) -> None:
    damage(two / "20")
    with _opened(two) as checkpointer:
        restored = checkpointer.restore(_state(0))
    assert restored is not None and restored.step == 10 and restored.meta == {"probed": 10}
    assert _same(restored.state, _state(10))
    (line,) = restored.damaged
    assert str(two / "20") in line and "damaged" in line
    assert "\n" not in line and len(line) < 500 + len(str(two))


def test_no_flipped_byte_passes(two: Path) -> None:
    files = _files(two / "20")
    data = _largest(two / "20")
    size = data.stat().st_size
    assert size > 0.9 * _state(0).x.nbytes
    positions = [(path, path.stat().st_size // 2) for path in files]
    positions += [(data, size * k // 16) for k in range(16)] + [(data, size - 1)]
    refused = {True: 0, False: 0}
    with _opened(two) as checkpointer:
        for path, offset in positions:
            whole = path.read_bytes()
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
            restored = checkpointer.restore(_state(0))
            path.write_bytes(whole)
            assert restored is not None
            # Some bytes are not read back, or say nothing about values: then they may pass.
            assert _same(restored.state, _state(restored.step)), (path, offset)
            assert restored.meta["probed"] == restored.step, (path, offset)
            assert len(restored.damaged) == (restored.step == 10)
            refused[path == data] += restored.step == 10
    assert refused[True] >= 12 and refused[False] >= 2


def test_values_that_orbax_restores_wrongly_are_refused(two: Path) -> None:
    # What a flipped byte in uncompressed data amounts to: everything reads well, one bit differs.
    wrong = _state(20)
    wrong = wrong._replace(x=wrong.x.at[3, 3].multiply(1 + 1e-7))
    with _opened(two.parent / "other") as checkpointer:
        checkpointer.save(20, wrong, {"probed": 20})
    shutil.rmtree(two / "20" / "state")
    shutil.copytree(two.parent / "other" / "20" / "state", two / "20" / "state")
    with _opened(two) as checkpointer:
        restored = checkpointer.restore(_state(0))
    assert restored is not None and restored.step == 10
    total = len(digests(wrong))
    assert restored.damaged[0].endswith(f"x differs from its digest (1 of {total} arrays)")


def test_another_dtype_or_shape_is_not_cast(two: Path) -> None:
    like = _state(0)
    for x in (like.x.astype(jnp.bfloat16), like.x[:-1]):
        with _opened(two) as checkpointer, pytest.raises(RunError, match=re.escape(str(two))):
            checkpointer.restore(like._replace(x=x))


def test_without_an_intact_one_nothing_is_deleted(two: Path) -> None:
    _truncate(two / "10")
    (two / "20" / "meta" / "metadata").write_text("{")
    before = {p: p.read_bytes() for p in two.rglob("*") if p.is_file()}
    with (
        _opened(two) as checkpointer,
        pytest.raises(RunError) as caught,
    ):
        checkpointer.restore(_state(0))
    text = str(caught.value)
    assert str(two / "10") in text and str(two / "20") in text and "\n" not in text
    assert {p: p.read_bytes() for p in two.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("step", [15, 20, 25])
def test_after_stepping_back_the_next_save_is_the_newest(two: Path, step: int) -> None:
    _truncate(two / "20")
    with _opened(two) as checkpointer:
        restored = checkpointer.restore(_state(0))
        assert restored is not None and restored.step == 10
        checkpointer.save(step, _state(step), {"probed": 10})
        checkpointer.wait()
        assert checkpointer.latest() == step
        # The damaged one must not replace an intact one.
        if step <= 20:
            assert sorted(p.name for p in two.iterdir()) == ["10", str(step)]
    with _opened(two) as checkpointer:
        restored = checkpointer.restore(_state(0))
    assert restored is not None and restored.step == step and restored.damaged == ()
    assert _same(restored.state, _state(step)) and restored.meta == {"probed": 10}


def test_leftovers_of_an_interrupted_save_are_ignored(two: Path) -> None:
    leftover = two / "30.orbax-checkpoint-tmp"
    shutil.copytree(two / "20", leftover)
    _truncate(leftover)
    with _opened(two) as checkpointer:
        assert checkpointer.latest() == 20
        restored = checkpointer.restore(_state(0))
        assert restored is not None and restored.step == 20 and restored.damaged == ()
        checkpointer.save(30, _state(30), {"probed": 30})
        checkpointer.wait()
        restored = checkpointer.restore(_state(0))
    assert restored is not None and restored.step == 30 and _same(restored.state, _state(30))


# Failing to write -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["file", "/proc/none"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / below / "checkpoints"
    with pytest.raises(RunError, match=re.escape(str(folder)) + r": \S"):
        Checkpointer(folder)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_one_line(
    two: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    with _opened(two) as checkpointer:

        def full(*args: Any, **kwargs: Any) -> None:
            if asynchronous:  # the message of Orbax's storage library
                raise ValueError("RESOURCE_EXHAUSTED:\nNo space left on device")
            raise OSError(errno.ENOSPC, "disk\nfull")

        name = "wait_until_finished" if asynchronous else "save"
        with monkeypatch.context() as patch:
            patch.setattr(checkpointer._manager, name, full)
            with pytest.raises(RunError) as caught:
                checkpointer.wait() if asynchronous else checkpointer.save(30, _state(30), {})
        text = str(caught.value)
        assert "\n" not in text and ("No space left" in text or "disk full" in text)
        assert str(two) in text
        assert "disk space" in text and "resumes" in text
        assert "checkpoint 30" in text or asynchronous
        restored = checkpointer.restore(_state(0))
    assert restored is not None and restored.step == 20


def test_a_write_that_fails_half_way_is_reported_and_leaves_the_older_ones(two: Path) -> None:
    large = _state(30)._replace(x=jnp.asarray(np.random.default_rng(0).normal(size=1 << 18)))
    checkpointer = Checkpointer(two)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))  # stands in for a full disk
    try:
        with pytest.raises(RunError, match=re.escape(str(two))) as caught:
            checkpointer.save(30, large, {})
            checkpointer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    with _opened(two) as again:
        restored = again.restore(_state(0))
        assert restored is not None and restored.step == 20 and restored.damaged == ()
        again.save(30, _state(30), {})
    with _opened(two) as again:
        restored = again.restore(_state(0))
    assert restored is not None and restored.step == 30 and _same(restored.state, _state(30))


@pytest.mark.parametrize("seen_by", ["is_saving", "save", "close"])
def test_a_save_that_fails_behind_the_run_is_seen_at_once_or_at_the_next(
    two: Path, seen_by: str
) -> None:
    large = _state(30)._replace(x=jnp.asarray(np.random.default_rng(0).normal(size=1 << 18)))
    checkpointer = Checkpointer(two)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limits[1]))  # stands in for a full disk
    try:
        checkpointer.save(30, large, {})
        while checkpointer._manager.is_saving_in_progress():
            time.sleep(0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # Orbax lists it until the failure is raised.
    assert checkpointer._manager.latest_step() == 30 and checkpointer.latest() == 20
    with pytest.raises(RunError, match=re.escape(str(two))):
        if seen_by == "save":
            checkpointer.save(40, _state(40), {})
        elif seen_by == "close":
            checkpointer.close()
        else:
            checkpointer.is_saving()
    assert checkpointer.failed and checkpointer.latest() == 20
    assert sorted(path.name for path in two.iterdir() if path.name.isdigit()) == ["10", "20"]


def test_another_part_of_a_failed_save_is_one_line_too(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen on a full disk: first the metadata could not be written, at the close the arrays."""
    checkpointer = Checkpointer(two)
    checkpointer.save(30, _state(30), {})
    checkpointer.wait()
    assert not checkpointer.failed

    def close() -> None:
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")

    monkeypatch.setattr(checkpointer._manager._checkpointer, "close", close)
    with pytest.raises(RunError, match=r"No space left on device.*; free some disk space"):
        checkpointer.close()
    assert checkpointer.failed


def test_whether_a_save_is_under_way(tmp_path: Path) -> None:
    with _opened(tmp_path) as checkpointer:
        assert not checkpointer.is_saving()
        checkpointer.save(30, _state(30), {})
        while checkpointer.is_saving():
            time.sleep(0.01)
        assert (tmp_path / "30").is_dir()


def test_the_systems_reason_is_not_cut_off():
    error = ValueError(f"PERMISSION_DENIED: {'long/' * 90}: Read-only ... [os_error_code='30']")
    said = checkpoint._brief(error)
    assert said.startswith("Read-only file system: PERMISSION_DENIED: long/") and len(said) < 301
    assert checkpoint._brief(ValueError("a\n b")) == "a b"
    assert checkpoint._brief(ValueError("")) == "ValueError"
