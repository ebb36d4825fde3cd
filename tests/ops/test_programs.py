"""Stored programs are read only as they were written, for the target they were compiled for."""

import json
import os
import pickle

import pytest

from frepo_scale.ops import programs
from frepo_scale.ops.programs import NotUsableError, store_program, stored_programs

TARGET = {"jax": "0.10.2", "kind of device": "TPU v5 lite"}
NAME = "outer_step"


@pytest.fixture
def folder(tmp_path):
    store_program(tmp_path / "ahead", NAME, "v5e:4x4", TARGET, "text", b"program")
    return tmp_path / "ahead"


def only(folder):
    (found,), refused = stored_programs(folder, NAME)
    assert refused == []
    return found


def refusal(folder):
    """Why the only program is refused, by its description or its data."""
    found, refused = stored_programs(folder, NAME)
    if refused:
        assert found == [] and len(refused) == 1
        return refused[0]
    with pytest.raises(NotUsableError) as caught:
        found[0].data()
    return str(caught.value)


def test_a_program_is_read_as_it_was_written(folder):
    found = only(folder)
    assert (found.hardware, found.target, found.data()) == ("v5e:4x4", TARGET, b"program")
    found.check_target(dict(TARGET))
    found.check_text("text")
    assert stored_programs(folder, "probe") == ([], [])
    assert stored_programs(folder / "none", NAME) == ([], [])


def test_a_second_one_for_the_same_hardware_replaces_it(folder):
    store_program(folder, NAME, "v5e:4x4", TARGET, "other", b"better")
    store_program(folder, NAME, "h100:8", TARGET, "other", b"of a GPU")
    found, refused = stored_programs(folder, NAME)
    assert {one.hardware: one.data() for one in found} == {
        "v5e:4x4": b"better",
        "h100:8": b"of a GPU",
    }
    assert refused == []


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (TARGET | {"jax": "0.12.0"}, ["jax", "0.10.2", "0.12.0"]),
        ({"jax": "0.10.2"}, ["kind of device", "TPU v5 lite", "(none)"]),
        (TARGET | {"XLA_FLAGS": "--xla_x=1"}, ["XLA_FLAGS", "(none)", "--xla_x=1"]),
    ],
)
def test_another_target_is_refused_with_what_differs(target, named, folder):
    with pytest.raises(NotUsableError) as caught:
        only(folder).check_target(target)
    assert all(word in str(caught.value) for word in named)


def test_another_text_is_refused(folder):
    with pytest.raises(NotUsableError):
        only(folder).check_text("another")


def test_damaged_data_are_refused(folder):
    path = only(folder).path
    for damaged in (b"progrem", b"", b"program and more"):
        path.write_bytes(damaged)
        assert str(path) in refusal(folder)
    path.unlink()
    assert str(path) in refusal(folder)


def opened(path):
    open(path, "w").close()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return opened, (self.path,)


def test_damaged_and_foreign_descriptions_are_refused(folder):
    description = only(folder).path.with_suffix(".json")
    content = json.loads(description.read_text())
    bomb = pickle.dumps(Bomb(str(folder / "burst")))
    for text in (
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, bomb),
        *(json.dumps(content | {name: None}).encode() for name in ("target",)),
        *(json.dumps({k: v for k, v in content.items() if k != name}).encode() for name in content
          if name != "made_by"),
    ):  # fmt: skip
        description.write_bytes(text)
        assert str(description) in refusal(folder)
    assert not (folder / "burst").exists()


@pytest.mark.parametrize("suffix", [".json", ".bin"])
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_files_that_others_can_write_are_refused(suffix, mode, folder):
    path = only(folder).path.with_suffix(suffix)
    path.chmod(mode)
    assert str(path) in refusal(folder) and "chmod" in refusal(folder)


def test_files_of_another_user_are_refused(folder, monkeypatch):
    for path in folder.iterdir():
        os.chown(path, 12345, -1) if os.geteuid() == 0 else None
    if os.geteuid() != 0:  # another user cannot be imitated otherwise
        monkeypatch.setattr(programs.os, "geteuid", lambda: 12345)
    assert "another user" in refusal(folder)


def test_files_are_readable_for_others_with_any_umask(tmp_path):
    before = os.umask(0o000)
    try:
        store_program(tmp_path, NAME, "cpu", TARGET, "text", b"program")
    finally:
        os.umask(before)
    assert only(tmp_path).data() == b"program"
