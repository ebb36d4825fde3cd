"""Settings of every test."""

import os

import pytest

# As in the program: JAX's LAPACK on CPU is slow with several threads on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Fast tests first: what breaks is then known early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
