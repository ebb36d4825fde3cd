"""Checkpoints on an object store: a step counts once it is committed, whatever else is there."""

import jax.numpy as jnp
import numpy as np
import pytest

from frepo_scale.core.errors import RunError
from frepo_scale.core.paths import to_path
from frepo_scale.jobs.progress import read_progress
from frepo_scale.ops.checkpoint import Checkpointer

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = "bucket/run/checkpoints"


def state(step):
    return {"x": jnp.full((8, 4), step, jnp.float32), "count": jnp.int32(step)}


def opened():
    return Checkpointer(to_path(f"gs://{ROOT}"))


def save(checkpointer, step):
    checkpointer.save(step, state(step), {"at": step})
    checkpointer.wait()


def restored():
    """What a new process restores."""
    checkpointer = opened()
    found = checkpointer.restore(state(0))
    checkpointer.close()
    assert found is not None and found.meta == {"at": found.step}
    np.testing.assert_array_equal(found.state["x"], state(found.step)["x"])
    return found


_saved = {}  # the objects of the two checkpoints, made once


@pytest.fixture
def two(served):
    """A store with the checkpoints 10 and 20."""
    if not _saved:
        checkpointer = opened()
        save(checkpointer, 10)
        save(checkpointer, 20)
        checkpointer.close()
        _saved.update(served.objects)
    served.objects.update(_saved)
    served.generation = max(generation for _, generation in _saved.values())
    return served


@pytest.mark.parametrize("left", [("state", "digests", "meta"), ("state",), ("digests", "meta")])
def test_a_half_written_newest_step_does_not_count(two, left):
    for name in two.below(f"{ROOT}/20"):
        if name.removeprefix(f"{ROOT}/20/").split("/")[0] not in left:
            two.objects.pop(name)
    assert two.below(f"{ROOT}/20")
    assert read_progress(to_path("gs://bucket/run")).saved == 10
    found = restored()
    assert found.step == 10 and found.damaged == ()
    checkpointer = opened()  # the run reaches the step again
    save(checkpointer, 20)
    checkpointer.close()
    assert restored().step == 20 and read_progress(to_path("gs://bucket/run")).saved == 20


def test_a_committed_step_whose_arrays_are_missing_is_named(two):
    for name in two.below(f"{ROOT}/20/state/d"):
        two.objects.pop(name)
    found = restored()
    assert found.step == 10
    (line,) = found.damaged
    assert f"gs://{ROOT}/20" in line


@pytest.mark.parametrize("part", ["state", "commit_success.txt"])
def test_a_store_that_refuses_half_way_is_reported_and_the_older_one_used(two, part, monkeypatch):
    put = two.put

    def refuse(name, content):
        if name == f"{ROOT}/30/{part}":
            raise PermissionError(13, "Permission denied", name)
        return put(name, content)

    monkeypatch.setattr(two, "put", refuse)  # what etils writes
    two.refused = f"{ROOT}/30/{part}"  # what TensorStore writes
    checkpointer = opened()
    with pytest.raises(RunError) as caught:
        save(checkpointer, 30)
    assert f"gs://{ROOT}" in str(caught.value) and "\n" not in str(caught.value)
    assert checkpointer.latest() == 20
    assert read_progress(to_path("gs://bucket/run")).saved == 20
    assert restored().step == 20
