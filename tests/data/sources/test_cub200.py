"""CUB-200 as it is distributed: unpacked, in a .tgz and in a .zip."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import contents, cub_files, damaged, zip_of

from frepo_scale.core.errors import InputError
from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.sources.registry import find_source, list_source

FORMS = ("folder", "top", "tgz", "zip", "tar")


def make(path, images, form, files=None):
    files = cub_files(images) if files is None else files
    if form in ("folder", "top"):
        images.write(path, files)
        return path if form == "top" else path / "CUB_200_2011"
    path.mkdir()
    data = zip_of(files) if form == "zip" else images.tar_of(files)
    file = path / f"CUB_200_2011.{form}"
    file.write_bytes(gzip.compress(data) if form == "tgz" else data)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_labels_names_and_bytes(tmp_path, images, form):
    listing = list_source(make(tmp_path / "c", images, form))
    names = ("001.Bird_0", "002.Bird_1", "003.Bird_2")
    assert listing.class_names == names and listing.name == "cub200"
    want = {
        part: {
            f"{names[i % 3]}/bird_{i}.jpg": (i % 3, images.encoded(i))
            for i in range(12)
            if (i // 3 % 3 != 2) == (part == "train")
        }
        for part in ("train", "test")
    }
    assert contents(listing.train) == want["train"] and contents(listing.test) == want["test"]
    census = listing.census
    assert census.held == 4 + (form in ("tgz", "zip", "tar"))
    assert sum(census.ignored.values()) == (1 if form == "folder" else 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("images.txt", b"1 001.Bird_0/bird_0.jpg\n", "image_class_labels.txt"),
        ("images.txt", None, "images.txt"),
        ("classes.txt", b"1 a\n2 b\n", "class '3'"),
        ("classes.txt", b"1 a\n1 b\n3 c\n", "classes.txt"),
        ("train_test_split.txt", b"", "train_test_split.txt"),
        ("train_test_split.txt", b"x 1\n", "train_test_split.txt"),
        ("images/001.Bird_0/bird_0.jpg", None, "images/001.Bird_0/bird_0.jpg"),
    ],
)
def test_what_is_incomplete(tmp_path, images, form, name, text, named):
    files = cub_files(images)
    del files[f"CUB_200_2011/{name}"]
    if text is not None:
        files[f"CUB_200_2011/{name}"] = text
    source = make(tmp_path / "c", images, form, files)
    with pytest.raises(InputError) as error:
        list_source(source)
    assert named in error.value.what


def test_an_image_that_is_not_listed_is_counted(tmp_path, images):
    source = make(tmp_path / "c", images, "folder")
    images.write(source / "images", {"001.Bird_0/more.jpg": b"x", "001.Bird_0/.DS_Store": b"x"})
    census = list_source(source).census
    assert sum(census.ignored.values()) == 1 + 2


def test_other_archives_are_not_taken_for_it(tmp_path, images):
    file = tmp_path / "x.tar"
    file.write_bytes(images.tar_of(images.pictures(2, 1)))
    source = find_source(file)
    assert source is not None and source[0].form.startswith("train/")


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), form=st.sampled_from(("tgz", "zip")))
def test_damage_to_the_archive(tmp_path, images, data, form):
    """Damage is refused, or an image is unreadable, or nothing changes."""
    source = tmp_path / form
    if not source.exists():
        make(source, images, form)
    good = contents(list_source(source).train)
    file = next(source.iterdir())
    whole = file.read_bytes()
    bad, cut = damaged(data, whole)
    file.write_bytes(bad)
    try:
        found = contents(list_source(source).train)
    except InputError:
        return
    finally:
        file.write_bytes(whole)
    assert not cut and found.keys() == good.keys()
    for name, (label, value) in found.items():
        assert isinstance(value, UnreadableImage) or (label, value) == good[name]
