"""Zip archives: their entries, the bytes of each, and archives made to do harm."""

import io
import struct
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import damaged, zip_of

from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.zip_archive import ZipImages, entries

FILES = {"a/1.png": b"one" * 50, "a/2.png": bytes(300), "b/ä.png": b"3", "b/4.png": b""}


def read(path):
    """The bytes, or the error, of every file of a zip by name."""
    found = {}
    opened = ZipImages(str(path))
    for entry in entries(path):
        if entry.kind == "file":
            try:
                found[entry.name] = opened.read(entry.offset, entry.size)
            except UnreadableImage as error:
                found[entry.name] = error
    opened.close()
    return found


def save(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)
    return tmp_path / "x.zip"


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_entries(tmp_path, kind):
    assert read(save(tmp_path, zip_of(FILES, kind))) == FILES


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_after_the_data(tmp_path, kind):
    """As programs write that cannot seek in their output."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError

        def seek(self, *_):
            raise OSError

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", kind) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    good = pipe.getvalue()
    assert good[6] & 8
    assert read(save(tmp_path, good)) == FILES
    at = good.index(b"one") if kind == zipfile.ZIP_STORED else good.index(b"1.png") + 6
    found = read(save(tmp_path, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]))
    assert isinstance(found["a/1.png"], UnreadableImage)


def test_folders_links_and_backslashes(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/", b"")
        archive.writestr("a\\b\\1.png", b"x")
        link = zipfile.ZipInfo("a/2.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, b"1.png")
    found = {entry.name: entry.kind for entry in entries(save(tmp_path, out.getvalue()))}
    assert found == {"a": "folder", "a/b/1.png": "file", "a/2.png": "other"}


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression(tmp_path, kind):
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, zip_of(FILES, kind)))
    assert "a/1.png" in error.value.what and error.value.expected == "deflate"


def test_encrypted(tmp_path):
    good = bytearray(zip_of(FILES))
    good[good.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, bytes(good)))
    assert "encrypted" in error.value.what


@pytest.mark.parametrize("name", ["inner.zip", "a/train.tar", "b.tar.gz", "c.TGZ", "d.7z"])
def test_archives_in_it(tmp_path, name):
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, zip_of(FILES | {name: b"x"})))
    assert name in error.value.what


def test_a_claimed_size_that_deflate_cannot_reach(tmp_path):
    good = bytearray(zip_of({"a/1.png": bytes(300)}))
    at = good.index(b"PK\x01\x02") + 24
    good[at : at + 4] = struct.pack("<L", 1 << 30)
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, bytes(good)))
    assert "1073741824" in error.value.what


def test_no_more_is_inflated_than_the_claimed_size(tmp_path):
    """The table of contents says 300 bytes, and the data inflate to 100 MB."""
    good = bytearray(zip_of({"a/1.png": bytes(100 << 20)}))
    at = good.index(b"PK\x01\x02") + 24
    good[at : at + 4] = struct.pack("<L", 300)
    assert isinstance(read(save(tmp_path, bytes(good)))["a/1.png"], UnreadableImage)


def test_entries_that_overlap(tmp_path):
    """Two names for the same data: how a small archive claims any amount."""
    good = zip_of({"a/1.png": b"x" * 100, "a/2.png": b"y" * 100}, zipfile.ZIP_STORED)
    at = good.rindex(b"PK\x01\x02") + 42
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, good[:at] + struct.pack("<L", 0) + good[at + 4 :]))
    assert "overlaps" in error.value.what


def test_an_entry_without_a_name(tmp_path):
    assert read(save(tmp_path, zip_of({"./": b""} | FILES))) == FILES
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, zip_of({"q": b"x"}).replace(b"q", b"\0")))
    assert "no name" in error.value.what


def test_a_zip_behind_another(tmp_path):
    """`cat a.zip b.zip`: a reader finds the last one only."""
    first = zip_of({"a/1.png": b"x"})
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, first + zip_of(FILES)))
    assert f"{len(first)} bytes before" in error.value.what


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/1.png", b"x")
        archive.writestr("a/1.png", b"y")
    with pytest.raises(InputError) as error:
        entries(save(tmp_path, out.getvalue()))
    assert "a/1.png" in error.value.what


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), kind=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_damage_changes_no_byte_and_no_name(tmp_path, data, kind):
    """Damage is refused, or an entry is unreadable; what is read is unchanged."""
    bad, cut = damaged(data, zip_of(FILES, kind))
    try:
        found = read(save(tmp_path, bad))
    except InputError:
        return
    assert not cut
    for name, value in found.items():
        assert isinstance(value, UnreadableImage) or value == FILES.get(name)
