"""The workdir of another run is refused, and a refusal changes nothing."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import to_path
from frepo_scale.ops.workdir import Workdir

_SETTINGS: dict[str, Any] = {"distill.ipc": 10, "distill.seed": 0, "net.norm": "batch"}


def _tree(root: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")
    }


def _refused(workdir: Workdir, settings: dict[str, Any], needed: int = 0) -> str:
    """The refusal's line; the same from `check_identity` unless it passes there."""
    with pytest.raises(InputError) as caught:
        workdir.open(settings, needed)
    text = str(caught.value)
    assert "\n" not in text and str(workdir.root) in text and "--workdir" in text
    return text


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "runs" / "a b")
    workdir.check_identity(_SETTINGS)
    assert not (tmp_path / "runs").exists()  # a dry run makes nothing
    workdir.open(_SETTINGS, 1)
    assert workdir.root.is_dir() and os.listdir(workdir.root) == []
    workdir.claim(_SETTINGS)
    assert os.listdir(workdir.root) == ["identity.json"]
    assert json.loads(workdir.identity.read_text()) == _SETTINGS


def test_the_same_run_opens_its_folder_again(tmp_path: Path) -> None:
    workdir = Workdir(str(tmp_path))
    for _ in range(2):
        workdir.open(dict(reversed(_SETTINGS.items())), 1)
        workdir.claim(_SETTINGS)
        workdir.metrics.write_text("kept")
    assert sorted(os.listdir(tmp_path)) == ["identity.json", "metrics.jsonl"]
    assert workdir.metrics.read_text() == "kept"


def test_all_paths_are_in_the_folder_with_distinct_names(tmp_path: Path) -> None:
    paths = [p for name, p in vars(Workdir(tmp_path)).items() if name != "root"]
    assert len({p.name for p in paths}) == len(paths) > 10
    assert all(p.parent == tmp_path for p in paths)


def test_another_runs_folder_is_refused_naming_every_difference(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.claim(_SETTINGS | {"old.name": None})
    before = _tree(tmp_path)
    text = _refused(workdir, _SETTINGS | {"distill.ipc": 1, "net.norm": "group", "new.name": 0.5})
    for phrase in (
        "distill.ipc was 10 and is now 1",
        "net.norm was 'batch' and is now 'group'",
        "new.name was not set and is now 0.5",
        "old.name was None and is now not set",
    ):
        assert phrase in text
    assert "seed" not in text
    assert _tree(tmp_path) == before


@pytest.mark.parametrize("content", ["notes.txt", "checkpoints/7/x", "config.gin", ".hidden"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("theirs")
    before = _tree(tmp_path)
    assert str(tmp_path) in _refused(Workdir(tmp_path), _SETTINGS)
    assert _tree(tmp_path) == before


def test_leftovers_of_a_kill_before_the_first_file_are_no_obstacle(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path)
    (tmp_path / ".write-test-123").write_bytes(b"x")
    (tmp_path / ".partial-identity").write_text("{")
    (tmp_path / "stuck-0.txt").write_text("the stacks of a process that hung while it read")
    workdir.check_identity(_SETTINGS)
    workdir.open(_SETTINGS, 1)
    workdir.claim(_SETTINGS)
    workdir.open(_SETTINGS, 1)
    assert json.loads(workdir.identity.read_text()) == _SETTINGS
    (tmp_path / "theirs").write_text("")
    workdir.identity.unlink()
    _refused(workdir, _SETTINGS)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", b"\xff\xfe", '"x"'])
def test_a_damaged_identity_is_refused(tmp_path: Path, text: str | bytes) -> None:
    workdir = Workdir(tmp_path)
    workdir.identity.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = _tree(tmp_path)
    assert "identity.json" in _refused(workdir, _SETTINGS)
    assert _tree(tmp_path) == before


def test_an_identity_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    Workdir(tmp_path).identity.mkdir()
    assert "identity.json" in _refused(Workdir(tmp_path), _SETTINGS)


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("theirs")
    workdir = Workdir(tmp_path / "run")
    assert str(tmp_path / "run") in _refused(workdir, _SETTINGS)
    assert (tmp_path / "run").read_text() == "theirs"


def test_unwritable_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("theirs")
    for root in (tmp_path / "file" / "run", Path("/proc/none/run")):
        workdir = Workdir(root)
        workdir.check_identity(_SETTINGS)
        assert str(root) in _refused(workdir, _SETTINGS)
    assert (tmp_path / "file").read_text() == "theirs"


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / ("x" * 300))
    assert "(File name too long)" in _refused(workdir, _SETTINGS)


def test_a_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_bytes", denied)  # root may write anywhere
    assert "written (Permission denied)" in _refused(Workdir(tmp_path), _SETTINGS)
    monkeypatch.setattr(os, "listdir", denied)
    assert "read (Permission denied)" in _refused(Workdir(tmp_path), _SETTINGS)


def test_too_little_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir = Workdir(tmp_path)
    workdir.claim(_SETTINGS)
    before = _tree(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 << 20))
    workdir.open(_SETTINGS, 3 << 20)
    text = _refused(workdir, _SETTINGS, (5 << 20) + 1)
    # What is there is rounded down, what is needed up: they are never the same number.
    assert "has 3 MiB free" in text and "at least 6 MiB" in text and "free 3 MiB more" in text
    assert _tree(tmp_path) == before
    (workdir.checkpoints / "10" / "state").mkdir(parents=True)
    # The bytes of existing checkpoints are not needed again.
    (workdir.checkpoints / "10" / "state" / "d").write_bytes(bytes(1 << 20))
    workdir.open(_SETTINGS, 4 << 20)
    assert "at least 5 MiB" in _refused(workdir, _SETTINGS, (5 << 20) + 1)


def test_claiming_replaces_the_identity_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Workdir(tmp_path)
    workdir.claim(_SETTINGS)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        workdir.claim(_SETTINGS | {"distill.seed": 1})
    assert json.loads(workdir.identity.read_text()) == _SETTINGS


# On an object store -------------------------------------------------------------------------


def test_a_run_on_a_store_makes_its_first_objects(store: Any) -> None:
    workdir = Workdir("gs://bucket/runs/a")
    workdir.check_identity(_SETTINGS)
    workdir.open(_SETTINGS, 2**60)  # the free space of a store is unknown
    assert store.objects == {}  # the write test is gone
    workdir.claim(_SETTINGS)
    assert list(store.objects) == ["bucket/runs/a/identity.json"]
    Workdir(to_path("gs://bucket/runs/a")).open(_SETTINGS, 1)
    assert "distill.ipc was 10" in _refused(workdir, _SETTINGS | {"distill.ipc": 1})
    assert not workdir.finished
    for path in (workdir.done, workdir.result, workdir.distilled):
        path.write_bytes(b"")
    assert workdir.finished


def test_what_is_no_run_on_a_store_is_refused(store: Any) -> None:
    store.put("bucket/a/notes.txt", b"theirs")
    assert "gs://bucket/a" in _refused(Workdir("gs://bucket/a"), _SETTINGS)
    assert "gs://bucket/a/notes.txt" in _refused(Workdir("gs://bucket/a/notes.txt"), _SETTINGS)
    assert list(store.objects) == ["bucket/a/notes.txt"]


def test_a_store_without_permission_is_refused(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> None:
        raise RuntimeError("403\nforbidden")

    monkeypatch.setattr(store, "put", denied)
    assert "(403 forbidden)" in _refused(Workdir("gs://bucket/a"), _SETTINGS)
    monkeypatch.setattr(store, "isdir", denied)
    with pytest.raises(InputError, match=r"gs://bucket/a cannot be used \(403 forbidden\)"):
        Workdir("gs://bucket/a")
