"""Finds the compilers for hardware that is not here, and lets one process at a time use libtpu.

They are installed apart from the packages, in `tpu_compiler` and `gpu_compiler` of the virtual
environment: where JAX finds them by itself, every program on a machine without the hardware first
tries to start it.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

TPU_FOLDER, GPU_FOLDER = "tpu_compiler", "gpu_compiler"
_MODULES = {"tpu": "libtpu", "gpu": "jax_plugins.xla_cuda13"}
_held: list[IO[str]] = []  # the locked file, open until this process ends
_FOLDERS = {"tpu": TPU_FOLDER, "gpu": GPU_FOLDER}


def lock_path() -> Path:
    """The file that a process locks that uses libtpu; one for each user of a machine."""
    return Path(tempfile.gettempdir()) / f"frepo-scale-libtpu-{os.getuid()}.lock"


def find_compiler(platform: str) -> bool:
    """Makes the compiler for a platform importable; whether there is one.

    Args:
      platform: "tpu", "gpu" or "cpu" (which is always there).
    """
    if platform == "cpu":
        return True
    folder = Path(sys.prefix) / _FOLDERS[platform]
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.util.find_spec(_MODULES[platform]) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def install_command(platform: str) -> str:
    """The command that installs the compiler for "tpu" or "gpu"."""
    folder = Path(sys.prefix) / _FOLDERS[platform]
    if platform == "gpu":
        package = f"jax-cuda13-plugin[with-cuda]=={importlib.metadata.version('jax')}"
        return f'{sys.executable} -m pip install --target {folder} "{package}"   # 4.4 GB'
    package = "libtpu"
    for line in importlib.metadata.requires("jax") or ():
        name, _, marker = line.partition(";")
        if name.startswith("libtpu") and '"tpu"' in marker.replace("'", '"'):
            package = name.strip()
    return f'{sys.executable} -m pip install --no-deps --target {folder} "{package}"   # 0.7 GB'


def hold_compiler(platform: str, say: Callable[[str], None]) -> None:
    """Waits until no other process uses libtpu; nothing for other platforms.

    This process then holds it until it ends: a library that is loaded is not unloaded.

    Args:
      platform: "tpu", "gpu" or "cpu".
      say: called with one line if it has to wait.
    """
    if platform != "tpu" or _held:
        return
    file = lock_path().open("a")  # another's file is not emptied
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another process that uses the TPU compiler")
        fcntl.flock(file, fcntl.LOCK_EX)
    _held.append(file)
