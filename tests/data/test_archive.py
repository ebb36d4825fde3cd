import gzip
import io
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.archive import members

QUICK = settings(
    max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FILES = {"a/x": b"one", "a/long" * 30: b"2" * 700, "b": b"", "c": b"x" * 512}


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


TAR = tar_of(FILES)


def contents(path: Path) -> dict[str, bytes]:
    return {m.name: m.read() for m in members(path)}


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_all_files_in_order(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(gzip.compress(TAR) if zipped else TAR)
    assert list(contents(path).items()) == list(FILES.items())


def test_names_are_normalised_and_kinds_recognised(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("./d", tarfile.DIRTYPE),
            (".//d/l", tarfile.SYMTYPE),
            ("d/f", tarfile.REGTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type = kind
            tar.addfile(entry)
    got = [(m.name, m.kind) for m in members(path)]
    assert got == [("d", "folder"), ("d/l", "other"), ("d/f", "file")]


@pytest.mark.parametrize(
    "data",
    [b"", b"no tar at all" * 100, b"\x1f\x8b", gzip.compress(b"x")],
    ids=["empty", "text", "cut", "no tar inside"],  # gzip writes the time
)
def test_what_is_no_tar(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.tar"):
        contents(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.tar cannot be read \(.*No such file"):
        contents(tmp_path / "x.tar")


def test_a_cut_between_two_entries_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(TAR[:1024])  # header and data of the first entry, nothing else
    with pytest.raises(InputError, match="no entry and no end mark at byte 1024"):
        contents(path)


def test_a_cut_inside_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(TAR[:514])
    with pytest.raises(InputError, match="ends inside a/x"):
        contents(path)


def test_a_broken_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(TAR[:1030] + b"?" + TAR[1031:])
    with pytest.raises(InputError):
        contents(path)


def test_the_checksum_after_the_end_mark_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    zipped = bytearray(gzip.compress(TAR))
    zipped[-8] ^= 1
    path.write_bytes(zipped)
    with pytest.raises(InputError, match="CRC"):
        contents(path)


MORE = {"a/x": b"another", "late": b"y" * 600}


@pytest.mark.parametrize("form", ["plain", "gzip", "two gzips", "inside"])
@pytest.mark.parametrize("padding", [0, 512, 40 * 512])
def test_archives_put_together_are_read_to_the_end(tmp_path: Path, form: str, padding: int) -> None:
    both = TAR + bytes(padding) + tar_of(MORE)
    if form == "inside":
        path = inner_tar(tmp_path, both)
        outer = {}
        for member in members(path):
            if member.name == "i.tar":
                got = [(m.name, m.read()) for m in members(path, inside=member)]
            outer[member.name] = member.size
        assert list(outer) == ["first", "i.tar", "last"]
    else:
        path = tmp_path / "x.tar"
        two = gzip.compress(TAR + bytes(padding)) + gzip.compress(tar_of(MORE))
        path.write_bytes({"plain": both, "gzip": gzip.compress(both), "two gzips": two}[form])
        got = [(m.name, m.read()) for m in members(path)]
    assert got == [*FILES.items(), *MORE.items()]


@pytest.mark.parametrize("zipped", [False, True])
def test_something_else_after_the_end_mark_is_refused_with_its_remedy(
    tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "x.tar"
    bad = TAR + b"signature of someone" * 40
    path.write_bytes(gzip.compress(bad) if zipped else bad)
    with pytest.raises(InputError) as caught:
        contents(path)
    assert str(path) in caught.value.what
    cut = re.search(r"head -c (\d+) ", caught.value.fix)
    assert cut is not None
    path.write_bytes(bad[: int(cut[1])])  # the remedy
    assert contents(path) == FILES


@QUICK
@given(cut=st.integers(0, len(TAR + TAR) - 1))
def test_no_cut_of_two_archives_changes_a_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes((TAR + tar_of(MORE))[:cut])
    try:
        got = [(m.name, m.read()) for m in members(path)]
    except InputError:
        return
    assert got in ([*FILES.items()], [*FILES.items(), *MORE.items()])


@QUICK
@given(cut=st.integers(0, len(TAR) - 1))
def test_no_cut_goes_unnoticed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(TAR[:cut])
    try:
        got = contents(path)
    except InputError:
        return
    assert got == FILES  # only behind the end mark may something be missing


@QUICK
@given(data=st.data(), bit=st.integers(0, 7))
def test_no_flip_goes_unnoticed_where_there_is_a_checksum(
    tmp_path: Path, data: st.DataObject, bit: int
) -> None:
    path = tmp_path / "x.tar"
    zipped = bytearray(gzip.compress(TAR))
    zipped[data.draw(st.integers(0, len(zipped) - 1))] ^= 1 << bit
    path.write_bytes(zipped)
    try:
        got = contents(path)
    except InputError:
        return
    assert got == FILES


@QUICK
@given(at=st.integers(0, len(TAR) - 1), bit=st.integers(0, 7))
def test_a_flip_in_a_plain_tar_changes_no_short_name(tmp_path: Path, at: int, bit: int) -> None:
    path = tmp_path / "x.tar"
    data = bytearray(TAR)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    try:
        got = contents(path)
    except InputError:
        return
    # A long name is stored as data, which a plain tar has no checksum of.
    assert {n for n in got if len(n) < 99} >= {"a/x", "b", "c"}
    assert len(got) == len(FILES)


def inner_tar(tmp_path: Path, inner: bytes) -> Path:
    path = tmp_path / "o.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("first", b"x" * 700), ("i.tar", inner), ("last", b"y")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_tar_inside_a_tar_is_read_in_place(tmp_path: Path) -> None:
    path = inner_tar(tmp_path, TAR)
    names = []
    for outer in members(path):
        names.append(outer.name)
        if outer.name == "i.tar":
            inside = {m.name: (m.offset, m.read()) for m in members(path, inside=outer)}
    assert names == ["first", "i.tar", "last"]
    data = path.read_bytes()
    for name, want in FILES.items():
        offset, got = inside[name]
        assert got == want == data[offset : offset + len(want)]


@QUICK
@given(cut=st.integers(0, len(TAR) - 1))
def test_no_cut_of_an_inner_tar_goes_unnoticed(tmp_path: Path, cut: int) -> None:
    path = inner_tar(tmp_path, TAR[:cut])
    outer = next(m for m in members(path) if m.name == "i.tar")
    try:
        got = {m.name: m.read() for m in members(path, inside=outer)}
    except InputError:
        return
    assert got == FILES
