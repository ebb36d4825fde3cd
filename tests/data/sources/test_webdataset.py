"""WebDataset shards: samples of an image and the number of its class."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import contents, damaged, webdataset

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.registry import list_source


def test_labels_names_and_bytes(tmp_path, images):
    source = webdataset(tmp_path / "w", images)
    listing = list_source(source)
    assert listing.form == "WebDataset shards" and listing.class_names == ("cat", "ant", "bee")
    folders = ("cat", "ant", "bee")
    assert contents(listing.train) == {
        f"{folders[i % 3]}/train{i}.jpg": (i % 3, images.encoded(i)) for i in range(8)
    }
    assert contents(listing.test) == {
        f"{folders[i % 3]}/validation{i}.jpg": (i % 3, images.encoded(100 + i)) for i in range(4)
    }
    # 12 images; 12 classes, 3 shards and the names; 12 .json
    census = listing.census
    assert (census.seen, census.held, sum(census.ignored.values())) == (40, 16, 12)


def test_shards_in_folders_of_their_splits(tmp_path, images):
    flat = webdataset(tmp_path / "w", images, names=False)
    for file in sorted(flat.iterdir()):
        _, split, number = file.name.split("-")
        (tmp_path / "d" / split).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "d" / split / number)
    listing = list_source(tmp_path / "d")
    assert len(listing.train) == 8 and len(listing.test) == 4
    assert listing.class_names == ("0", "1", "2")
    with pytest.raises(InputError) as error:
        list_source(tmp_path / "d" / "train")
    assert str(tmp_path / "d") in error.value.fix


def test_wordnet_ids_are_sorted(tmp_path, images):
    source = webdataset(tmp_path / "w", images)
    (source / "classnames.txt").write_text("n02119789\r\nn01443537\r\nn01440764\r\n\r\n")
    listing = list_source(source)
    assert listing.wnids == ("n01440764", "n01443537", "n02119789")
    assert listing.train.labels.tolist() == [2 - i % 3 for i in range(8)]


def test_gzip(tmp_path, images):
    source = webdataset(tmp_path / "w", images)
    plain = contents(list_source(source).train)
    for file in sorted(source.glob("*.tar")):
        file.with_suffix(".tar.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = list_source(source)
    assert packed.train.compressed and contents(packed.train) == plain


def test_test_shards_without_classes_are_not_the_test_part(tmp_path, images):
    source = webdataset(tmp_path / "w", images)
    members = {f"{i}.jpg": images.encoded(i) for i in range(4)}
    (source / "set-test-0000.tar").write_bytes(images.tar_of(members))
    listing = list_source(source)
    assert len(listing.test) == 4 and "cat/validation0.jpg" in listing.test.names
    assert listing.test_like is None
    (source / "set-validation-0000.tar").unlink()
    listing = list_source(source)
    assert len(listing.test) == 0 and "set-test-0000.tar" in listing.test_like.what


def test_one_shard_is_refused_with_its_folder(tmp_path, images):
    source = webdataset(tmp_path / "w", images)
    with pytest.raises(InputError) as error:
        list_source(source / "set-train-0000.tar")
    assert str(source) in error.value.fix


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"a.jpg": b"x", "a.cls": b"0", "b.jpg": b"x"}, "sample b"),
        ({"a.jpg": b"x", "a.cls": b"0", "b.cls": b"1"}, "sample b"),
        ({"a.jpg": b"x", "a.cls": b"0", "a.png": b"x"}, "a.png"),
        ({"a.jpg": b"x", "a.cls": b"zero"}, "a.cls"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, "a.cls"),
        ({"a.jpg": b"x", "a.cls": b"1" * 40}, "a.cls"),
        ({"a.jpg": b"x", "a.cls": b"7"}, "label 7"),
    ],
)
def test_what_is_no_sample(tmp_path, images, members, named):
    source = webdataset(tmp_path / "w", images)
    (source / "set-train-0001.tar").write_bytes(images.tar_of(members))
    with pytest.raises(InputError) as error:
        list_source(source)
    assert named in error.value.what


def test_a_missing_shard(tmp_path, images):
    source = webdataset(tmp_path / "w", images, shards=3)
    (source / "set-train-0001.tar").unlink()
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "number 1" in error.value.what and str(source) in error.value.what


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage(tmp_path, images, data):
    """A cut is refused; a flip is refused, or is within one image or class number."""
    source = tmp_path / "w"
    if not source.exists():
        webdataset(source, images, shards=1)
    good = list_source(source)
    file = source / "set-train-0000.tar"
    whole = file.read_bytes()
    bad, cut = damaged(data, whole)
    file.write_bytes(bad)
    try:
        found = list_source(source)
    except InputError:
        return
    finally:
        file.write_bytes(whole)
    assert not cut or bad.endswith(bytes(512))  # the padding after the end mark
    assert len(found.train) == len(good.train)
