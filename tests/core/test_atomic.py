import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import fake_store
import pytest

from frepo_scale.core.atomic import remove_leftovers, whole_file, whole_folder, whole_path
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import to_path


def test_file_is_written_with_parents_and_usual_permissions(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a" / "b.bin"
    with whole_file(target) as file:
        file.write(b"whole")
        assert not target.exists()  # nothing to see before the end
    assert target.read_bytes() == b"whole"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask
    assert os.listdir(target.parent) == ["b.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_old_file_and_no_rest(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(error), whole_file(target) as file:
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_file_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    with whole_file(tmp_path / "x") as file:
        file.write(b"x")
    assert calls == ["sync", "rename"]


def test_full_disk_is_an_input_error(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*No space left"),
        whole_file(tmp_path / "x") as file,
    ):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []


def test_unwritable_targets_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "below", tmp_path / "folder", Path("/proc/none/x")):
        with pytest.raises(InputError, match="cannot write"), whole_file(target) as file:
            file.write(b"x")
    with pytest.raises(InputError, match="cannot write"), whole_folder("/proc/none/x"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("whole", [whole_file, whole_path, whole_folder])
def test_folded_urls_are_refused(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a local path"), whole(Path("gs://bucket/x.npz")):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("whole", [whole_path, whole_folder])
def test_only_files_are_written_to_stores(whole: Any, store: Any) -> None:
    with pytest.raises(InputError, match="a local path"), whole("gs://bucket/x"):
        pass
    assert store.calls == []


def test_a_file_on_a_store_is_one_write_at_the_end(store: Any) -> None:
    for content in (b"old", b"new"):
        with whole_file(to_path("gs://bucket/a/x")) as file:
            file.write(content[:1])
            file.write(content[1:])
            assert store.objects.get("bucket/a/x", (b"old",))[0] == b"old"
        assert store.objects["bucket/a/x"][0] == content
    assert store.calls == [("bucket/a/x", "wb")] * 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_writes_nothing_to_a_store(error: type[BaseException], store: Any) -> None:
    with pytest.raises(error), whole_file("gs://bucket/x") as file:
        file.write(b"half")
        raise error
    assert store.calls == [] and store.objects == {}


def test_a_store_that_fails_is_an_input_error(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: Any) -> None:
        raise fake_store.Refused("no permission")

    monkeypatch.setattr(store, "open", denied)
    message = r"cannot write gs://bucket/x \(no permission\)"
    with pytest.raises(InputError, match=message), whole_file("gs://bucket/x") as file:
        file.write(b"x")


def test_folder_appears_whole_and_may_replace_an_empty_one(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set"
    for _ in range(2):
        with whole_folder(target) as folder:
            (folder / "a").write_text("a")
            assert not (target / "a").exists()
        assert os.listdir(target) == ["a"] and os.listdir(target.parent) == ["set"]
        (target / "a").unlink()  # now it is empty


def test_folder_refuses_files_and_anything_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_bytes(b"kept")
    with pytest.raises(InputError, match="is a file"), whole_folder(tmp_path / "file"):
        pytest.fail("must be refused before anything is built")
    with pytest.raises(InputError, match="is not empty"), whole_folder(tmp_path / "full"):
        pytest.fail("must be refused before anything is built")
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert (tmp_path / "full" / "kept").read_bytes() == b"kept"


def test_folder_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with pytest.raises(InputError, match="cannot write"), whole_folder(target) as folder:
        (folder / "a").write_text("ours")
        target.mkdir()
        (target / "a").write_text("theirs")
    assert (target / "a").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_folder_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_folder(tmp_path / "set") as folder:
        (folder / "half").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_path_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "x"
    with whole_path(target) as path:
        path.write_bytes(b"1")
        assert not target.exists()
    assert target.read_bytes() == b"1"
    with pytest.raises(ZeroDivisionError), whole_path(target) as path:
        path.write_bytes(b"2")
        raise ZeroDivisionError
    assert target.read_bytes() == b"1"
    assert [p.name for p in target.parent.iterdir()] == ["x"]
    with pytest.raises(InputError, match="cannot write"), whole_path(target / "y"):
        pass


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    for name in ("a", "owner.json", "folder"):  # as if this process were killed in the middle
        with pytest.raises(ZeroDivisionError), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *arguments, **more: None)
            patch.setattr(shutil, "rmtree", lambda *arguments, **more: None)
            with (whole_folder if name == "folder" else whole_file)(tmp_path / name):
                raise ZeroDivisionError
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path, but_of=("owner.json",))
    left = {path.name.rpartition("-")[0] or path.name for path in tmp_path.iterdir()}
    assert left == {"kept", ".partial-owner.json"}
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    remove_leftovers(tmp_path / "missing")
