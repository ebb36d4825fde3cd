"""Settings of every test, and the order in which pytest-xdist hands files to its processes."""

import atexit
import os
import shutil
import signal
import tempfile
from importlib import metadata

import fake_store
import pytest

# As in the program: JAX's LAPACK on CPU is slow with several threads on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Most of a test's time is compilation of programs that then run for milliseconds. Without LLVM's
# optimization it is half; without the MLIR emitters of fused operations, less than half of that.
# Later versions of XLA have no others, and end the process at a flag that they do not know.
# Drills about equal bits and the launchers' real runs reset this in their processes.
_flags = "--xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)
# One compilation cache for the whole session: the processes of pytest-xdist and the programs that
# tests start inherit it. A test about compilation itself must unset it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="frepo-scale-tests-compiled-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

# A shell starts background jobs with SIGINT ignored, nohup those with SIGHUP ignored, and programs
# under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def store(monkeypatch):
    """An empty object store behind gs://."""
    made = fake_store.Store()
    fake_store.install(monkeypatch, made)
    fake_store.install_bucket_client(monkeypatch)
    return made


@pytest.fixture
def served(store, monkeypatch):
    """The same store, which TensorStore reaches too: for checkpoints."""
    with fake_store.serving() as server:
        server.store = store
        # TensorStore reads the variable whenever it opens a bucket.
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        yield store


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """One process: fast tests first. Several: files with slow tests first, whole files together.

    A file's fixtures are then made once, and no long file is left to the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    if config.getoption("dist", "no") == "no" and "PYTEST_XDIST_WORKER" not in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
    else:
        items.sort(key=lambda item: item.path not in slow)
