"""TensorBoard reads what clu writes, and TensorFlow is not imported for it."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from frepo_scale.ops.tensorboard import (
    PROFILED_STEPS,
    StepActions,
    TensorBoardWriter,
)

_WRITE = """
import numpy as np
from frepo_scale.ops.tensorboard import TensorBoardWriter

def write(logdir):
    writer = TensorBoardWriter(logdir)
    for step in (1, 2, 100):
        writer.write_scalars(step, {"loss": step / 4, "np": np.float32(step)})
    writer.write_scalars(3, {"bad": float("nan")})
    writer.flush()
    writer.close()
"""


@pytest.fixture(autouse=True)
def _absl_log_level() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    yield
    logger.setLevel(level)


def _check_events(logdir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logdir))
    events.Reload()
    # TensorFlow writes tensors that TensorBoard shows as scalars; its own files hold scalars.
    tags = events.Tags()
    found: dict[str, list[tuple[int, float]]] = {}
    for tag in tags["scalars"]:
        found[tag] = [(e.step, e.value) for e in events.Scalars(tag)]
    for tag in tags["tensors"]:
        from tensorboard.util.tensor_util import make_ndarray

        values = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
        found[tag] = values
    assert found["loss"] == [(1, 0.25), (2, 0.5), (100, 25.0)]
    assert found["np"] == [(1, 1.0), (2, 2.0), (100, 100.0)]
    ((step, bad),) = found["bad"]
    assert step == 3 and np.isnan(bad)


def test_events_are_read_back(tmp_path: Path) -> None:
    space: dict[str, object] = {}
    exec(_WRITE, space)
    space["write"](tmp_path)  # type: ignore[operator]
    _check_events(tmp_path)


_HIDDEN = """
import importlib.abc, importlib.util

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition(".")[0] == "tensorflow" else found(name, package)
)
"""
_WITHOUT_TENSORFLOW = (
    _WRITE
    + """
from pathlib import Path
from frepo_scale.ops.tensorboard import StepActions
logdir = Path(sys.argv[1])
write(logdir)
writer = TensorBoardWriter(logdir / "actions")
actions = StepActions(writer, logdir / "actions", logdir / "profile_now", 0, 30, 10)
for step in range(1, 31):
    actions.after_step(step)
actions.close()
writer.close()
assert not [m for m in sys.modules if m.partition(".")[0] == "tensorflow"]
assert list((logdir / "actions").rglob("*.xplane.pb"))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [False, True])
def test_tensorflow_is_neither_imported_nor_required(tmp_path: Path, hidden: bool) -> None:
    program = "import sys\n" + _HIDDEN * hidden + _WITHOUT_TENSORFLOW
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _check_events(tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "actions"))
    events.Reload()
    assert {"steps_per_sec", "uptime"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
def test_tensorflow_writes_the_same_events_on_a_store(tmp_path: Path) -> None:
    """Here a disk is treated as a store."""
    program = (
        "import sys\nfrom frepo_scale.ops import tensorboard\n"
        "tensorboard.is_local = lambda path: False\n"
        + _WRITE
        + "write(sys.argv[1])\nassert 'tensorflow' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _check_events(tmp_path)


def _run(logdir: Path, start: int, steps: int, last: int, profile_at: int = 10) -> list[Path]:
    """Runs steps start + 1 to last of a loop; returns the profiles."""
    writer = TensorBoardWriter(logdir)
    actions = StepActions(writer, logdir, logdir / "profile_now", start, steps, profile_at)
    step = jax.jit(lambda x: x + 1)
    x = jnp.zeros(4)
    for done in range(start + 1, last + 1):
        x = step(x)
        actions.after_step(done)
    actions.close()
    writer.close()
    return list(logdir.rglob("*.xplane.pb"))


@pytest.mark.parametrize("start", [0, 1000])
def test_a_profile_is_taken_shortly_after_the_start(tmp_path: Path, start: int) -> None:
    assert len(_run(tmp_path / "a", start, start + 30, start + 30)) == 1
    assert _run(tmp_path / "b", start, start + 90, start + 49, 50) == []
    assert len(_run(tmp_path / "c", start, start + 90, start + 60, 50)) == 1


def test_a_loop_may_end_in_the_middle_of_a_profile(tmp_path: Path) -> None:
    middle = 10 + PROFILED_STEPS // 2
    assert len(_run(tmp_path / "a", 0, middle, middle)) == 1
    assert len(_run(tmp_path / "b", 0, 30, 30)) == 1  # the profiler is free again


def test_no_profile_is_taken_early_or_unless_requested(tmp_path: Path) -> None:
    assert _run(tmp_path / "a", 0, 30, 9) == []
    assert _run(tmp_path / "b", 0, 20, 20, 0) == []


def test_closing_does_not_stop_another_profile(tmp_path: Path) -> None:
    jax.profiler.start_trace(str(tmp_path / "theirs"))
    _run(tmp_path / "ours", 0, 5, 5, 0)
    jax.profiler.stop_trace()
    assert list((tmp_path / "theirs").rglob("*.xplane.pb"))


def test_a_profile_is_taken_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frepo_scale.ops.tensorboard._POLL", 0.0)
    request = tmp_path / "profile_now"
    writer = TensorBoardWriter(tmp_path)
    actions = StepActions(writer, tmp_path, request, 0, 60, 0)
    step = jax.jit(lambda x: x + 1)
    x = jnp.zeros(4)
    found = []
    for done in range(1, 61):
        if done in (10, 30):
            request.touch()
        x = step(x)
        actions.after_step(done)
        found.append(len(list(tmp_path.rglob("*.xplane.pb"))))
        assert not request.exists()
    actions.close()
    writer.close()
    assert found[8] == 0 and found[10 + PROFILED_STEPS + 1] == 1  # twice in one run
    # Profiles of one second share a folder; its files are replaced.
    assert found[-1] in (1, 2)


def test_an_image_is_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path)
    image = np.arange(4 * 6 * 4, dtype=np.uint8).reshape(4, 6, 4)
    writer.write_image(7, "distilled set", image)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Images("distilled set")
    assert (event.step, event.height, event.width) == (7, 4, 6)
    decoded = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert np.array_equal(decoded, image)
