"""The copy that workers read where a source has no random access."""

import io

import numpy as np
import pytest
from source_forms import contents

from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.prepare.copies import with_copy
from frepo_scale.data.sources.listing import Listing, Part, PartBuilder


class Lines:
    """A file whose images are its lines, found by their number."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self._lines = file.read().split(b"\n")

    def read(self, offset, size):
        if self._lines[offset] == b"bad":
            raise UnreadableImage("", "it is bad")
        return self._lines[offset]

    def close(self):
        pass


def part(tmp_path, rows):
    """Lines of two files; `rows` are (file, line) in the order of the part."""
    builder = PartBuilder()
    for number, line in rows:
        path = tmp_path / f"{number}.txt"
        size = len(path.read_bytes().split(b"\n")[line])
        builder.add(f"c/{number}-{line}", 0, str(path), line, size)
    return builder.part(compressed=True, opener=Lines)


def copied(tmp_path, listing):
    stored, copy = with_copy(listing, tmp_path / "copy")
    out = io.BytesIO()
    copy.write(out, lambda: None)
    assert len(out.getvalue()) == copy.size
    (tmp_path / "copy").write_bytes(out.getvalue())
    return stored


def test_images_of_files_that_are_read_from_their_beginning(tmp_path):
    (tmp_path / "0.txt").write_bytes(b"a\nbcd\nef")
    (tmp_path / "1.txt").write_bytes(b"ghij\nk")
    train = part(tmp_path, [(1, 1), (0, 2), (0, 0), (1, 0)])
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    test = Part.of_arrays(pixels, np.zeros(1, int), "test")
    stored = copied(tmp_path, Listing("x", train, test))
    assert contents(stored.train) == contents(train)
    assert [value for _, value in contents(stored.train).values()] == [b"ghij", b"k", b"a", b"ef"]
    assert [value for _, value in contents(stored.test).values()] == [pixels.tobytes()]
    assert not stored.train.compressed and stored.train.opener is None


def test_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "0.txt").write_bytes(b"a\nbad")
    train = part(tmp_path, [(0, 0), (0, 1)])
    with pytest.raises(InputError) as error:
        copied(tmp_path, Listing("x", train, PartBuilder().part()))
    assert "0.txt" in error.value.what and "c/0-1" in error.value.what
