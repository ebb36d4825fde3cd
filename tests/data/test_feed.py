"""Target batches are the same for any placement, mesh and number of processes."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from processes import finished, free_address, start

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.feed import Feed, target_batches
from frepo_scale.data.pipeline import GlobalOrder
from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.mesh import single_device_mesh

PROGRAM = Path(__file__).parent / "feed_run.py"
SIDE, N, BATCH = 4, 211, 16  # 201 in the target part: no number of devices divides it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared set."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.savez(
        root / "x.npz",
        x_train=rng.integers(0, 256, (N, SIDE, SIDE, 3)).astype(np.uint8),
        y_train=np.arange(N) % 3,
        x_test=rng.integers(0, 256, (8, SIDE, SIDE, 3)).astype(np.uint8),
        y_test=np.arange(8) % 2,
    )
    prepare(PrepareConfig(root / "x.npz", root / "out", SIDE, workers=1), Preemption())
    return str(root / "out")


@pytest.fixture(scope="module")
def expected(folder):
    """Step and size -> images and labels, without a mesh or a feed."""
    data = load_dataset(DataConfig("npz", folder, batch=8, placement="memory"))
    inputs = data.fit_preprocessing().apply(everything(data.train))

    def batch(step, size=BATCH):
        rows = GlobalOrder(len(data.train), size, seed=5)[step]
        return inputs[rows], data.train.labels[rows]

    return batch


def run(folder, tmp_path, cases, processes, devices):
    """What each case's batches were, gathered by process 0."""
    out = tmp_path / "batches"
    group = [free_address(), processes] if processes > 1 else []
    running = [
        start(
            PROGRAM,
            folder,
            out,
            json.dumps(cases),
            *group,
            *([number] if group else []),
            devices=devices,
        )
        for number in range(processes)
    ]
    for process in running:
        finished(process)
    found = []
    for number in range(len(cases)):
        with np.load(f"{out}-{number}.npz") as arrays:
            found.append((arrays["images"], arrays["labels"]))
    return found


def check(found, expected, first, size=BATCH):
    images, labels = found
    for step in range(len(labels)):
        want_images, want_labels = expected(first + step, size)
        np.testing.assert_array_equal(labels[step], want_labels)
        np.testing.assert_allclose(images[step], want_images, rtol=1e-5, atol=1e-5)


def test_every_placement_on_every_mesh(folder, expected, tmp_path):
    cases = [
        {"placement": placement, "mesh": mesh, "batch": BATCH, "start": 9, "steps": 5}
        for placement in ("memory", "stream", "device")
        for mesh in ([1, 8], [2, 4])
    ]
    cases.append(cases[-1] | {"together": 3})  # two calls, of three and two steps
    for found in run(folder, tmp_path, cases, 1, 8):
        check(found, expected, 9)  # steps 9 to 13 cross the end of the first epoch


@pytest.mark.slow
def test_one_two_and_four_processes_continue_with_the_same_batches(folder, expected, tmp_path):
    first = 0
    for processes, devices in ((1, 4), (2, 2), (4, 1), (1, 1)):
        cases = [
            {
                "placement": placement,
                "mesh": [1, processes * devices],
                "batch": BATCH,
                "start": first,
                "steps": 4,
            }
            for placement in ("stream", "device", "memory")
        ]
        cases.append(cases[1] | {"together": 3})
        for found in run(folder, tmp_path, cases, processes, devices):
            check(found, expected, first)
        first += 4


@pytest.mark.slow
def test_worker_processes_read_the_same(folder, expected, tmp_path):
    case = {"placement": "stream", "mesh": [1, 2], "batch": 24, "start": 3, "steps": 6}
    (found,) = run(folder, tmp_path, [case | {"workers": 2}], 1, 2)
    check(found, expected, 3, 24)


class Masks:
    """A part whose images encode whether SIGTERM is blocked in the process that reads them."""

    labels = np.zeros(8, np.int32)

    def __len__(self):
        return len(self.labels)

    def at(self, rows):
        deaf = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return np.full((len(rows), 1, 1, 1), float(deaf), np.float32)


@pytest.mark.slow
def test_workers_get_no_signal_while_they_start():
    """A signal to the whole process group; the run itself still gets it."""
    mesh = single_device_mesh()
    feed = Feed(Masks(), GlobalOrder(8, 4, seed=0), "stream", None, mesh, workers=1)
    with target_batches(feed, 0) as batches:
        assert np.all(np.asarray(next(batches).images) == 1)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
