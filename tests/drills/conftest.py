"""Drills: disturbed runs must end with the same result as undisturbed ones.

All runs are those of `benchmarks/drill.py`, with fewer nets, and share a compilation cache.
"""

import os
import shutil
import subprocess
from pathlib import Path

import drill
import numpy as np
import pytest
from drills.setting import SETTINGS
from processes import one_at_a_time

from frepo_scale.data.prepare.job import prepare
from frepo_scale.data.prepare.settings import PrepareConfig
from frepo_scale.data.sources.digits import Digits
from frepo_scale.ops.preemption import Preemption

AS_USUAL = {"XLA_FLAGS": ""}  # compiled as for users, with optimization


@pytest.fixture(scope="session")
def cache():
    """A folder of the session's compilation cache, for programs that may be killed."""
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) / "drills"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def for_all(tmp_path_factory):
    """A folder that all processes of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def streamed(for_all):
    """Settings of a run that reads the digits from records.

    The path is part of an export, so all processes of pytest-xdist must use the same one.
    """
    folder = for_all / "records"
    folder.mkdir(exist_ok=True)
    with one_at_a_time(folder / "lock"):
        if not (folder / "out").exists():
            parts = Digits().listing(folder, lambda: None).parts.items()
            arrays = {f"{a}_{name}": v for name, part in parts
                      for a, v in (("x", part.pixels), ("y", part.labels))}  # fmt: skip
            np.savez(folder / "digits.npz", **arrays)
            prepare(
                PrepareConfig(folder / "digits.npz", folder / "out", 8, workers=1), Preemption()
            )
    given = {"DATASET": "npz", "DATA_DIR": folder / "out", "DATA_PLACEMENT": "stream"}
    return given | {"CHANCE_PROBES": 0}  # their accuracy is too low after so few steps


def _undisturbed(workdir, cache, processes, settings=()):
    with one_at_a_time(workdir.with_suffix(".lock")):
        if not (workdir / "DONE").exists():
            given = SETTINGS | dict(settings)
            attempt = drill.Attempt(
                workdir, cache, processes, 1, settings=given, environment=AS_USUAL
            )
            assert not any(attempt.codes(400)), attempt.logs[0].read_text()
    return workdir


@pytest.fixture(scope="session")
def undisturbed(cache, for_all):
    """An undisturbed run of one process; tests must not change it."""
    return _undisturbed(for_all / "undisturbed-one", cache, 1)


@pytest.fixture(scope="session")
def undisturbed_two(cache, for_all, streamed):
    """An undisturbed run of two processes that streams its images from records."""
    return _undisturbed(for_all / "undisturbed-two", cache, 2, streamed)


@pytest.fixture
def start(cache):
    """Starts attempts and ends them after the test."""
    begun = []

    def start(workdir, processes=1, devices=1, *, settings=(), environment=(), **more):
        attempt = drill.Attempt(
            workdir,
            cache,
            processes,
            devices,
            settings=SETTINGS | dict(settings),
            environment=AS_USUAL | dict(environment),
            **more,
        )
        begun.append(attempt)
        return attempt

    yield start
    for attempt in begun:
        attempt.end()


def _mounted(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path):
    """An empty workdir on its own disk of 8 MiB."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    done = _mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(workdir))
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield workdir
    subprocess.run(["umount", "--lazy", str(workdir)], check=True)
