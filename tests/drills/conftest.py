"""Drills: runs are disturbed in every way at hand, and must end as if nobody had been there.

All runs are those of `benchmarks/drill.py`, with fewer nets, and share what was compiled.
"""

import shutil
import subprocess

import drill
import pytest
from drills.setting import SETTINGS


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def _undisturbed(workdir, cache, processes):
    attempt = drill.Attempt(workdir, cache, processes, 1, settings=SETTINGS)
    assert not any(attempt.codes(400)), attempt.logs[0].read_text()
    return workdir


@pytest.fixture(scope="session")
def undisturbed(cache, tmp_path_factory):
    """A run of one process that nobody disturbed."""
    return _undisturbed(tmp_path_factory.mktemp("one") / "run", cache, 1)


@pytest.fixture(scope="session")
def undisturbed_two(cache, tmp_path_factory):
    """A run of two processes that nobody disturbed."""
    return _undisturbed(tmp_path_factory.mktemp("two") / "run", cache, 2)


@pytest.fixture
def start(cache):
    """Starts attempts; none outlives the test."""
    begun = []

    def start(workdir, processes=1, devices=1, *, settings=(), **more):
        attempt = drill.Attempt(
            workdir, cache, processes, devices, settings=SETTINGS | dict(settings), **more
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
    """An empty workdir that is a disk of its own, of 8 MiB."""
    place = tmp_path / "run"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    done = _mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place))
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
