import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.core.text import decode_text, read_text, text_lines


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("tail", [0, 1, 3])
def test_every_editors_lines(tmp_path, mark, end, tail):
    path = tmp_path / "names.txt"
    path.write_bytes(mark + end.join(["Käse".encode(), b"", b"two words"]) + tail * end)
    assert text_lines(read_text(path)) == ["Käse", "", "two words"]


def test_only_line_feeds_end_a_line():
    assert text_lines("a\x0bb\x85c\u2028d\n") == ["a\x0bb\x85c\u2028d"]
    assert text_lines("") == text_lines("\n \n") == []


@pytest.mark.parametrize(
    ("data", "value", "fix"),
    [
        (b"a\nb\nK\xe4se\n", "0xe4 in line 3", "LATIN1"),
        ("names".encode("utf-16"), "UTF-16", "-f UTF-16"),
        (b"\x93a\x94", "0x93 in line 1", "LATIN1"),
    ],
)
def test_other_encodings_are_refused_with_a_remedy(data, value, fix):
    with pytest.raises(InputError) as caught:
        decode_text(data, "folder/names.txt")
    assert caught.value.what.startswith("folder/names.txt ")
    assert value in caught.value.what
    assert fix in caught.value.fix
    assert "\n" not in str(caught.value)


def test_the_remedy_makes_the_file_readable():
    """As iconv does it."""
    for data, encoding in ((b"K\xe4se\n", "latin1"), ("Käse\n".encode("utf-16"), "utf-16")):
        assert decode_text(data.decode(encoding).encode(), "x") == "Käse\n"


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt"):
        read_text(tmp_path / "gone.txt")
