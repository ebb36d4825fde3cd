"""Starts test programs in separate processes, with a number of virtual devices."""

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path


def start(program, *arguments, devices, paths=()):
    """The running program, its output piped; its imports are looked up in `paths` first."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    given = [*map(str, paths), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in given if path)
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process, timeout=900):
    """Its standard output; fails with the end of its standard error."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err[-3000:]
    return out


def free_address():
    """An address for `jax.distributed` on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def one_at_a_time(lock):
    """Waits until no other process is in a block with the same lock file."""
    with Path(lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
