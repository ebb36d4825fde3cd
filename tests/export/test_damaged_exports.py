"""Damaged, changed and foreign .npz files: one line, before anything large is read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export.exports import ARRAYS, arrays_of, assert_equal, make, rewrite

from frepo_scale.core.errors import InputError
from frepo_scale.export.formats import FORMAT, read_npz, write_npz


def test_an_archive_that_decompresses_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is decompressed: 0.3 MB that stand for 300 MB."""
    path = tmp_path / "a.npz"
    write_npz(path, make(channels=1))
    with np.load(path) as npz:
        arrays = dict(npz)
    np.savez_compressed(path, **arrays | {"images": np.zeros((300, 512, 512, 1), np.float32)})
    assert path.stat().st_size < 2**20

    # Not an AssertionError, which the reader would report as damage.
    monkeypatch.setattr("zipfile.ZipFile.open", lambda *given: pytest.fail("decompressed"))
    with pytest.raises(InputError) as caught:
        read_npz(path)
    assert "a.npz" in caught.value.what


def test_shapes_are_compared_before_arrays_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    rewrite(path, labels=np.zeros((7, 3), np.float32))
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *given: pytest.fail("read"))
    with pytest.raises(InputError, match="array labels is"):
        read_npz(path)


def test_every_truncation_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    whole = path.read_bytes()
    offsets = {*range(0, len(whole), 197), *range(len(whole) - 60, len(whole)), 1, 4, 29, 30, 31}
    for offset in offsets:
        path.write_bytes(whole[:offset])
        with pytest.raises(InputError, match=r"a\.npz"):
            read_npz(path)


def test_a_changed_byte_is_an_input_error_or_changes_nothing(tmp_path: Path) -> None:
    path, export = tmp_path / "a.npz", make(channels=1)
    write_npz(path, export)
    whole = path.read_bytes()
    refused = 0
    for offset in range(0, len(whole), 7):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :])
            try:
                assert_equal(read_npz(path), export)
            except InputError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error)
    assert refused > len(whole) / 7  # most bytes matter


def test_a_header_that_hides_part_of_an_array_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    whole = path.read_bytes()
    assert whole.count(b"'<U8'") == 1  # numpy reads half of each name and never sees the end
    path.write_bytes(whole.replace(b"'<U8'", b"'<U4'"))
    with pytest.raises(InputError, match=r"checksum of class_names\.npy is wrong"):
        read_npz(path)


def test_a_changed_array_with_right_checksums_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    wrong: list[tuple[str, Any]] = []
    for name, array in arrays_of(make()).items():
        wrong += [(name, array[:-1]), (name, array[None]), (name, array.astype(np.float64))]
        if array.dtype == np.float32:
            wrong += [(name, np.where(array == array.flat[0], v, array)) for v in (np.nan, np.inf)]
    wrong += [
        ("hard_labels", np.full(6, 3, np.int32)),
        ("hard_labels", np.full(6, -1, np.int32)),
        ("channel_std", np.zeros(3, np.float32)),
        ("class_names", np.array(["a", "b"])),
        ("class_names", np.arange(3)),
        ("class_names", np.array([], np.str_)),
        ("images", np.zeros((0, 4, 4, 3), np.float32)),
        ("images", np.zeros((6, 4, 4, 2), np.float32)),
        ("images_uint8", np.zeros((6, 4, 4, 3), np.int8)),
    ]
    for name, array in wrong:
        write_npz(path, make())
        rewrite(path, **{name: array})
        with pytest.raises(InputError, match=r"a\.npz: array \w+ ") as caught:
            read_npz(path)
        if not name.startswith(("images", "class")):  # the others are measured against these
            assert f"array {name} " in str(caught.value)


@pytest.mark.parametrize("name", [*ARRAYS, "images_uint8", "class_names", "meta"])
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    rewrite(path, **{name: None})
    with pytest.raises(InputError, match=rf"a\.npz: no array {name}\b"):
        read_npz(path)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (np.array("{"), "not JSON"),
        (np.array("[]"), "format None"),
        (np.array(json.dumps({"format": "frepo_scale-distilled-9"})), "distilled-9'.*distilled-2"),
        (
            np.array(json.dumps({"format": FORMAT, "evaluation": {}, "provenance": {}})),
            "no results",
        ),
        (np.array(json.dumps({"format": FORMAT, "evaluation": {}})), "no provenance"),
        (np.array(json.dumps({"format": FORMAT, "provenance": {}})), "no evaluation"),
        (np.array([1, 2]), "no array meta"),
    ],
)
def test_other_kinds_and_versions_are_refused(
    tmp_path: Path, meta: np.ndarray, message: str
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    rewrite(path, meta=meta)
    with pytest.raises(InputError, match=message):
        read_npz(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    pickled = np.array([{}], dtype=object)
    np.savez(tmp_path / "pickle.npz", meta=pickled)
    for name, message in {
        "none.npz": "no such file",
        "text.npz": "damaged or not an .npz",
        "other.npz": "no array meta",
        "pickle.npz": "no array meta",
        "": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message):
            read_npz(tmp_path / name)
