"""Local paths are unchanged; URLs are opened on their store or refused in one line."""

from pathlib import Path
from typing import Any

import fake_store
import pytest

from frepo_scale.core import paths
from frepo_scale.core.errors import InputError


@pytest.mark.parametrize("path", ["runs/a", "/runs/a b", ".", "x/~/c:d", Path("x")])
def test_a_local_path_is_pathlibs(path: str | Path) -> None:
    assert paths.is_local(path)
    assert type(paths.to_path(path)) is type(Path()) and paths.to_path(path) == Path(path)


@pytest.mark.parametrize("path", ["/runs/\udcff", Path("a\udce9")])
def test_a_path_that_is_not_utf8_is_refused(path: str | Path) -> None:
    with pytest.raises(InputError) as refused:
        paths.to_path(path)
    assert "UTF-8" in refused.value.what and "\\udc" in refused.value.what
    refused.value.what.encode()  # it can be printed


def test_a_relative_path_needs_a_current_folder_in_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "\udcff"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert paths.to_path("/runs/a") == Path("/runs/a")
    with pytest.raises(InputError, match="current folder"):
        paths.to_path("runs/a")
    folder.rmdir()
    with pytest.raises(InputError, match="no longer exists"):
        paths.to_path("runs/a")


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.to_path("~/runs/a") == Path("/home/somebody/runs/a")


def test_a_url_keeps_its_scheme(store: Any) -> None:
    remote = paths.to_path("gs://bucket/runs/a")
    assert not paths.is_local(remote) and not paths.is_local("gs://bucket")
    assert str(remote / "b" / "c.txt") == "gs://bucket/runs/a/b/c.txt"
    assert remote.name == "a" and str(remote.parent) == "gs://bucket/runs"
    assert paths.to_path(remote) is remote


@pytest.mark.parametrize(
    "url", ["s3://b/x", "az://b/x", "GS://b/x", "x://y", "gs:/b/x", Path("gs://b/x"), "./gs://b"]
)
def test_other_urls_are_refused(url: str | Path) -> None:
    with pytest.raises(InputError, match=r"URL.*a local path, or a URL that begins with gs://"):
        paths.to_path(url)


@pytest.mark.parametrize("error", [ImportError("no gcsfs"), fake_store.Refused("no\nbucket")])
def test_a_store_that_does_not_answer_is_one_line(
    error: Exception, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr(store, "exists", fail)
    with pytest.raises(InputError, match=r"gs://b/x cannot be used \(no .*TensorFlow"):
        paths.to_path("gs://b/x")


def test_reading_is_the_same_locally_and_on_a_store(store: Any, tmp_path: Path) -> None:
    for root in (tmp_path, paths.to_path("gs://bucket/run")):
        for name in ("one", "two"):
            (root / name).write_bytes(name.encode())
        assert sorted(p.name for p in paths.children(root)) == ["one", "two"]
        assert paths.read_bytes(root / "one") == b"one"
        with paths.open_to_read(root / "two") as file:
            file.seek(1)
            assert file.read() == b"wo"
        assert paths.is_file(root / "one") and not paths.is_file(root)
        assert paths.is_folder(root) and not paths.is_folder(root / "one")
        paths.remove(root / "one")
        assert not paths.is_file(root / "one")
        with pytest.raises(FileNotFoundError):
            paths.read_bytes(root / "one")
    assert paths.children(paths.to_path("gs://bucket/none")) == []
    store.put("bucket/marked/", b"")
    assert paths.children(paths.to_path("gs://bucket/marked")) == []


def test_errors_of_a_store_are_those_of_a_file_system(store: Any, tmp_path: Path) -> None:
    remote = paths.to_path("gs://bucket/x")
    with pytest.raises(OSError, match="no permission"), paths.store_errors(remote):
        raise fake_store.Refused("no\n permission")
    for kept in (FileNotFoundError(), InputError("a", "b")):
        with pytest.raises(type(kept)) as caught, paths.store_errors(remote):
            raise kept
        assert caught.value is kept
    with pytest.raises(fake_store.Refused), paths.store_errors(tmp_path):
        raise fake_store.Refused


def test_the_fake_refuses_what_stores_cannot_do(store: Any) -> None:
    remote = paths.to_path("gs://bucket/run")
    (remote / "a").write_bytes(b"x")
    for act in (
        lambda: (remote / "a").open("a"),
        lambda: remote.rename("gs://bucket/other"),
        lambda: (remote / "a").replace("gs://bucket/b"),
    ):
        with pytest.raises(fake_store.Refused):
            act()
    with pytest.raises(ValueError, match="mode"):
        (remote / "a").open("x")
