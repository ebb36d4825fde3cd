"""The file that says what a prepared set is."""

import dataclasses
import json

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.description import (
    FILE,
    UNFINISHED,
    Description,
    Shard,
    read_description,
    write_description,
)

ONE = Description(
    name="x",
    tool="0",
    resolution=8,
    channels=3,
    fit="crop",
    filter="area",
    class_names=("ü", "\udcff"),
    wnids=None,
    counts={"train": (2, 1), "test": (0, 1)},
    held_out=0,
    channel_mean=(0.1, 0.2, 0.3),
    channel_std=(1 / 3, 0.5, 1.0),
    shards={"train": (Shard("a", 2, 9, "s"), Shard("b", 1, 8, "t")), "test": ()},
    files={"labels.npz": "u"},
    source={"form": "npz"},
    skipped=(("c/d", "why"),),
)


def test_what_is_written_is_read(tmp_path):
    written = write_description(tmp_path, ONE)
    found = read_description(tmp_path)
    assert found == ONE and found.fingerprint == written.fingerprint
    assert (found.size("train"), found.size("test"), found.size("val")) == (3, 0, 0)
    assert found.image_shape == (8, 8, 3) and found.record_bytes == 196


@pytest.mark.parametrize("change", [{"name": "y"}, {"class_names": ("b", "a")}, {"skipped": ()}])
def test_the_fingerprint_covers_what_a_set_is(tmp_path, change):
    one = write_description(tmp_path, ONE).fingerprint
    assert write_description(tmp_path, dataclasses.replace(ONE, **change)).fingerprint != one
    assert write_description(tmp_path, dataclasses.replace(ONE, fitted="x")).fingerprint == one
    assert read_description(tmp_path).fitted == "x"


def test_what_is_no_description(tmp_path):
    with pytest.raises(InputError, match=r"has no dataset\.json"):
        read_description(tmp_path)
    (tmp_path / UNFINISHED).mkdir()
    with pytest.raises(InputError, match="is not finished"):
        read_description(tmp_path)
    write_description(tmp_path, ONE)
    good = json.loads((tmp_path / FILE).read_text())
    for value, message in (
        ({**good, "format": 3}, "is of format 3: expected format 2"),
        ({"format": 3, "records": []}, "is of format 3: expected format 2"),
        ({**good, "resolution": 9}, "checksum differs"),
        ({**good, "more": 1}, "is damaged"),
        ({"format": 2, "sha256": "x"}, "is damaged"),
        ([], "is damaged"),
    ):
        (tmp_path / FILE).write_text(json.dumps(value))
        with pytest.raises(InputError, match=message):
            read_description(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        read_description(tmp_path)
