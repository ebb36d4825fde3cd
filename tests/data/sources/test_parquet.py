"""Parquet files of encoded images and labels."""

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import contents, damaged, parquet

from frepo_scale.core.errors import InputError
from frepo_scale.data.images import RangeReader
from frepo_scale.data.sources.registry import list_source

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_labels_names_and_bytes(tmp_path, images):
    listing = list_source(parquet(tmp_path / "p", images))
    names = ("cat", "ant", "bee")
    assert listing.class_names == names
    assert contents(listing.train) == {
        f"{names[i % 3]}/train-0000{i // 4}-of-00002#{i % 4:07}": (i % 3, images.encoded(i))
        for i in range(8)
    }
    assert contents(listing.test) == {
        f"{names[i % 3]}/validation-00000-of-00001#{i - 100:07}": (i % 3, images.encoded(i))
        for i in range(100, 104)
    }
    assert listing.census.seen == 12 + 3 and listing.census.held == 3


def test_rows_in_any_order(tmp_path, images):
    listing = list_source(parquet(tmp_path / "p", images))
    with RangeReader(listing.train) as reader:
        for row in (7, 0, 3, 2, 2, 6):
            assert reader.read(row) == images.encoded(row)


@pytest.mark.parametrize("below", ["data", "default", "plain_text"])
def test_files_in_a_folder(tmp_path, images, below):
    parquet(tmp_path / "p" / below, images)
    (tmp_path / "p" / "README.md").write_text("x")
    listing = list_source(tmp_path / "p")
    assert len(listing.train) == 8 and len(listing.test) == 4


def test_files_in_folders_of_their_splits(tmp_path, images):
    flat = parquet(tmp_path / "f", images)
    for file in flat.iterdir():
        split, number = file.name.split("-")[:2]
        (tmp_path / "p" / split).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "p" / split / f"{number}.parquet")
    assert len(list_source(tmp_path / "p").train) == 8


def test_wordnet_ids_are_sorted_and_numbers_have_no_names(tmp_path, images):
    names = ("n02119789", "n01443537", "n01440764")
    listing = list_source(parquet(tmp_path / "p", images, names))
    assert listing.wnids == names[::-1]
    assert listing.train.labels.tolist() == [2 - i % 3 for i in range(8)]
    assert list_source(parquet(tmp_path / "q", images, None)).class_names == ("0", "1", "2")


def write(path, columns):
    pq.write_table(pa.table(columns), path)


def test_a_test_part_with_secret_labels_is_not_read(tmp_path, images):
    source = parquet(tmp_path / "p", images)
    row = {"image": [{"bytes": images.encoded(0), "path": None}], "label": [-1]}
    write(source / "test-00000-of-00001.parquet", row)
    listing = list_source(source)
    assert len(listing.test) == 4
    assert sum(listing.census.ignored.values()) == 1


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"image": [b"x"], "name": ["a"]}, "name (string)"),
        ({"image": [b"x"], "label": ["cat"]}, "label (string)"),
        ({"image": ["x.jpg"], "label": [0]}, "image (string)"),
        ({"image": [[1, 2]], "label": [0]}, "image (list"),
        ({"image": [b"x"], "label": [[0, 1]]}, "label (list"),
        ({"image": [{"path": "x.jpg"}], "label": [0]}, "image (struct<path"),
        ({"image": [b"x", None], "label": [0, 1]}, "row 1"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "row 1"),
        ({"image": [b"x"], "label": [9]}, "label 9"),
    ],
)
def test_what_is_no_table_of_images(tmp_path, images, columns, named):
    source = parquet(tmp_path / "p", images)
    write(source / "train-00001-of-00002.parquet", columns)
    with pytest.raises(InputError) as error:
        list_source(source)
    assert named in error.value.what


def test_other_types_of_the_columns(tmp_path, images):
    source = parquet(tmp_path / "p", images)
    data = [images.encoded(i) for i in range(3)]
    for part, image in (
        ("train-00000-of-00002", pa.array(data, pa.large_binary())),
        ("train-00001-of-00002", [{"path": "x", "bytes": one} for one in data]),
        ("validation-00000-of-00001", data),
    ):
        write(source / f"{part}.parquet", {"label": pa.array([0, 1, 2], pa.uint8()), "img": image})
    listing = list_source(source)
    assert [value for _, value in contents(listing.train).values()] == 2 * data


def test_a_missing_file(tmp_path, images):
    source = parquet(tmp_path / "p", images)
    (source / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(InputError) as error:
        list_source(source)
    assert "number 0" in error.value.what


def test_one_file_is_refused_with_its_folder(tmp_path, images):
    source = parquet(tmp_path / "p", images)
    with pytest.raises(InputError) as error:
        list_source(source / "train-00000-of-00002.parquet")
    assert str(source) in error.value.fix


def test_without_pyarrow(tmp_path, images, monkeypatch):
    source = parquet(tmp_path / "p", images)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError) as error:
        list_source(source)
    assert f"{sys.executable} -m pip install 'frepo-scale[parquet]'" in error.value.fix
    assert "pyarrow" in error.value.what


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage(tmp_path, images, data):
    """Damage to pages with checksums is refused; to the description, refused or as many images."""
    source = tmp_path / "p"
    if not source.exists():
        parquet(source, images, write_page_checksum=True)
    file = source / "train-00000-of-00002.parquet"
    whole = file.read_bytes()
    bad, cut = damaged(data, whole)
    file.write_bytes(bad)
    try:
        found = list_source(source)
        contents(found.train)
    except InputError:
        return
    finally:
        file.write_bytes(whole)
    assert not cut and len(found.train) >= 4
