"""A run that cannot fit into the memory of its machine is refused before its first step."""

from types import SimpleNamespace

import pytest

from frepo_scale.core.errors import FailedElsewhere, InputError
from frepo_scale.jobs import host_memory
from frepo_scale.jobs.host_memory import available, check_host_memory, needed_bytes

MEMINFO = "MemTotal:  9000 kB\nMemFree: 100 kB\nMemAvailable:    5000 kB\n"


def run(platform="cpu", placement="memory", whitened=True, devices=1, local=1):
    return SimpleNamespace(
        recipe=SimpleNamespace(name="small"),
        config=SimpleNamespace(pool=SimpleNamespace(size=7), net=SimpleNamespace(width=32)),
        dataset=SimpleNamespace(
            placement=placement, whitened=whitened, image_shape=(4, 5, 1),
            train=range(60), held_out=range(10), test=range(30),
        ),
        algorithm=SimpleNamespace(batch_size=8),
        mesh=SimpleNamespace(
            size=devices, local_devices=[SimpleNamespace(platform=platform)] * local
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def state(monkeypatch):
    monkeypatch.setattr(host_memory, "state_bytes", lambda algorithm, dataset: 1000)


def test_what_is_counted():
    batch, images = 4 * 20 * 8, 4 * 20 * 100
    assert needed_bytes(run()) == 2 * 1000 + images + batch
    assert needed_bytes(run(whitened=False)) == 2 * 1000 + batch
    assert needed_bytes(run(placement="stream")) == 2 * 1000 + batch
    assert needed_bytes(run("gpu", "stream", devices=8, local=2)) == (1000 + batch) / 4


MAX = {"g/memory.max": "max", "g/memory.current": "10"}
LIMITED = {"g/memory.max": "9000", "g/memory.current": "4000",
           "g/memory.stat": "a 1\ninactive_file 7\n"}  # fmt: skip
OLD = {"g/memory/a/b/memory.limit_in_bytes": "800", "g/memory/a/b/memory.usage_in_bytes": "900"}


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("", {}, 5000 * 1024),
        ("0::/", MAX, 5000 * 1024),
        ("0::/", LIMITED, 5007),
        ("0::/a/b", LIMITED | {"g/a/memory.max": "20", "g/a/memory.current": "5"}, 15),
        ("3:cpu:/x\n4:memory,cpuset:/a/b\n0::/", OLD, 1),
        ("3:cpu:/x\n4:memory:/other", OLD, 5000 * 1024),
    ],
)
def test_the_limit_of_a_container_or_a_job_counts(tmp_path, own, files, expected):
    for name, text in files.items() | {("proc/meminfo", MEMINFO), ("proc/self/cgroup", own)}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available(tmp_path / "proc", tmp_path / "g") == expected
    assert available(tmp_path / "none", tmp_path / "none") == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_cannot_fit_is_refused_and_the_process_named(monkeypatch, first):
    check_host_memory(run())
    monkeypatch.setattr(host_memory, "available", lambda: needed_bytes(run()))
    check_host_memory(run())
    monkeypatch.setattr(host_memory, "exchange", lambda value: [value, 3e9, 1.0])
    monkeypatch.setattr(host_memory, "process_count", lambda: 3)
    monkeypatch.setattr(host_memory, "is_first", lambda: first)
    with pytest.raises(InputError if first else FailedElsewhere) as refused:
        check_host_memory(run())
    if first:
        assert refused.value.what.startswith("small needs")
        assert "3.0 GB are missing on the machine of process 1" in refused.value.what
        assert "POOL_SIZE (now 7)" in refused.value.fix
    else:
        assert refused.value.code == 2


def test_nothing_is_refused_where_the_memory_is_not_known(monkeypatch):
    monkeypatch.setattr(host_memory, "available", lambda: 0.0)
    check_host_memory(run())
    monkeypatch.setattr(host_memory, "available", lambda: 1.0)
    with pytest.raises(InputError):
        check_host_memory(run())
