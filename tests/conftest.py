"""Settings of every test."""

import os

import fake_store
import pytest

# As in the program: JAX's LAPACK on CPU is slow with several threads on busy cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Most of the time goes into compiling what then runs for milliseconds: it is half without LLVM's
# optimisation. Runs in processes of their own, the drills among them, go without this.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def store(monkeypatch):
    """An empty object store behind gs://."""
    made = fake_store.Store()
    fake_store.install(monkeypatch, made)
    fake_store.install_bucket_client(monkeypatch)
    return made


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Fast tests first: what breaks is then known early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


EARLY = pytest.StashKey()


def pytest_collection_finish(session):
    """Starts what a module's `start_early` starts for its slow tests; `early` gives it to them.

    It goes on beside the fast tests, which come first and leave a core idle. `start_early` is given
    the names of the functions that are to run, and returns a process or None.
    """
    slow = {}
    for item in session.items:
        if item.get_closest_marker("slow") and hasattr(item.module, "start_early"):
            slow.setdefault(item.module, set()).add(item.function.__name__)
    if session.config.option.collectonly:
        slow = {}
    session.stash[EARLY] = {module: module.start_early(names) for module, names in slow.items()}
    for process in filter(None, session.stash[EARLY].values()):
        session.config.add_cleanup(process.kill)


@pytest.fixture(scope="module")
def early(request):
    """The process that the module's `start_early` gave, or None."""
    return request.session.stash[EARLY][request.module]


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
    """A folder for what runs compile."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled_once(compilation_cache):
    """Whole runs, here and in processes of their own, find what an earlier one has compiled.

    Most of the time of a small run goes into compiling it.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache as cache

    settings = {
        "jax_compilation_cache_dir": str(compilation_cache),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    cache.reset_cache()
