"""TFRecords: the labels of every layout, mapped where necessary."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import contents

from frepo_scale.core.errors import InputError
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.sources.registry import list_source

pytestmark = pytest.mark.slow  # TensorFlow takes seconds to load

TABLE = "n02119789 1 kit_fox\nn01443537 2 goldfish\nn01440764 3 tench\n"


def example(**features):
    """A serialised tf.train.Example of ints and bytes; "__" stands for "/"."""
    import tensorflow as tf

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    found = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def records(path, examples):
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in examples:
            writer.write(one)


def labels(part):
    """Name (without class) to label."""
    return {n.split("/")[1]: int(k) for n, k in zip(part.names, part.labels, strict=True)}


@pytest.fixture
def build(tmp_path, images):
    """A build as tensorflow-datasets lays it out, labels 0, 1, 2 in turn."""

    def make(name="imagenet2012", names=None, info=True, files=None, n=6):
        folder = tmp_path / "5.1.0"
        for split, count in (("train", n), ("validation", 3)):
            for shard in range(2):
                records(
                    folder / f"{name}-{split}.tfrecord-{shard:05}-of-00002",
                    [
                        example(
                            image=images.encoded(i, "PNG"),
                            label=i % 3,
                            file_name=f"{split}{i}.JPEG".encode(),
                        )
                        for i in range(shard, count, 2)
                    ],
                )
        if info:
            lengths = {"train": [n - n // 2, n // 2], "validation": [2, 1]}
            value = {
                "name": name,
                "splits": [
                    {"name": k, "shardLengths": [str(c) for c in v]} for k, v in lengths.items()
                ],
            }
            (folder / "dataset_info.json").write_text(json.dumps(value))
        if names:
            (folder / "label.labels.txt").write_text("\n".join(names) + "\n")
        for file, text in (files or {}).items():
            (folder / file).write_text(text)
        return folder

    return make


def test_labels_in_sorted_order_stay(build, images):
    folder = build(names=images.wnids)
    listing = list_source(folder)
    assert listing.class_names == listing.wnids == images.wnids
    assert labels(listing.train) == {f"train{i}.JPEG": i % 3 for i in range(6)}
    assert labels(listing.test) == {f"validation{i}.JPEG": i for i in range(3)}
    assert "already" in listing.notes[0] and listing.fit is None
    assert list_source(folder.parent).fingerprint() == listing.fingerprint()
    part = listing.train
    for row, name in enumerate(part.names):
        with open(part.paths[part.files[row]], "rb") as file:
            file.seek(part.offsets[row])
            number = int(name.split("train")[1].removesuffix(".JPEG"))
            assert file.read(part.sizes[row]) == images.encoded(number, "PNG")


def test_labels_in_another_order_are_mapped(build, images):
    listing = list_source(build("imagenet_resized", names=images.wnids[::-1]))
    assert listing.wnids == images.wnids
    assert labels(listing.train) == {f"train{i}.JPEG": 2 - i % 3 for i in range(6)}
    assert "mapped to the order of the WordNet ids" in listing.notes[0]
    assert "2 of 3 change" in listing.notes[0]


def test_resized_imagenet_without_names(build):
    folder = build("imagenet_resized")
    with pytest.raises(InputError, match=r"does not name its 3 classes.*map_clsloc.txt"):
        list_source(folder)
    (folder / "map_clsloc.txt").write_text(TABLE)
    listing = list_source(folder)
    assert labels(listing.train) == {f"train{i}.JPEG": 2 - i % 3 for i in range(6)}


def test_published_squares_are_recorded_as_squashed(build, images, run, tmp_path, capsys):
    names = images.wnids[::-1]
    folder = build("imagenet_resized", names=names)
    run(folder, tmp_path / "out")
    assert PreparedSet.open(tmp_path / "out").description.fit == "squash"
    output = capsys.readouterr().out
    assert "TFRecords: the images were squashed to squares" in output
    run(folder, tmp_path / "out")  # --fit crop does not make it another set
    assert "already prepared" in capsys.readouterr().out


def test_other_names_and_none(build):
    listing = list_source(build("cifar", names=["cat", "ant", "bee"]))
    assert listing.class_names == ("cat", "ant", "bee")
    assert listing.wnids is None
    (listing_folder := build("cifar")).joinpath("label.labels.txt").unlink()
    assert list_source(listing_folder).class_names == ("0", "1", "2")


def test_plain_records_count_from_one(tmp_path, images):
    for split in ("train", "validation"):
        records(
            tmp_path / "r" / f"{split}-00000-of-00001",
            [
                example(
                    image__encoded=images.encoded(i),
                    image__class__label=1 + i % 3,
                    image__class__synset=images.wnids[i % 3].encode(),
                    image__filename=f"{split}{i}.JPEG".encode(),
                )
                for i in range(6)
            ],
        )
    listing = list_source(tmp_path / "r")
    assert labels(listing.train) == {f"train{i}.JPEG": i % 3 for i in range(6)}
    assert listing.wnids == images.wnids
    records(
        tmp_path / "q" / "train.tfrecord",
        [
            example(image__encoded=images.encoded(i), image__class__label=1 + i % 2)
            for i in range(4)
        ],
    )
    assert list_source(tmp_path / "q").train.labels.tolist() == [0, 1, 0, 1]
    records(
        tmp_path / "z" / "train.tfrecord",
        [example(image__encoded=images.encoded(i), image__class__label=i % 3) for i in range(6)],
    )
    with pytest.raises(InputError, match="label -1"):
        list_source(tmp_path / "z")


def as_array_records(folder):
    """The same build in the other format of tensorflow-datasets."""
    import tensorflow as tf
    from array_record.python.array_record_module import ArrayRecordWriter

    for file in sorted(folder.glob("*tfrecord*")):
        other = folder / file.name.replace("tfrecord", "array_record")
        writer = ArrayRecordWriter(str(other), "group_size:1")
        for data in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            writer.write(data)
        writer.close()
        file.unlink()
    return folder


def compressed(folder):
    for file in sorted(folder.glob("*tfrecord*")):
        file.write_bytes(gzip.compress(file.read_bytes()))
    return folder


def in_folders(folder):
    for file in sorted(folder.glob("*tfrecord*")):
        split = file.name.split(".")[0].split("-")[1]
        (folder / split).mkdir(exist_ok=True)
        file.rename(folder / split / file.name)
    return folder


@pytest.mark.parametrize("form", [as_array_records, compressed, in_folders])
def test_other_files_hold_the_same(build, images, form):
    folder = build(names=images.wnids[::-1])
    plain = list_source(folder)
    want = contents(plain.train), contents(plain.test)
    found = list_source(form(folder))
    assert (contents(found.train), contents(found.test)) == want
    assert found.class_names == images.wnids and found.fingerprint() == plain.fingerprint()
    assert found.train.compressed == (form is compressed)


@pytest.mark.parametrize("form", [as_array_records, compressed])
@pytest.mark.parametrize(
    "bad", [lambda data: data[: len(data) // 2], lambda data: b"", bytes.swapcase]
)
def test_damage_to_other_files(build, images, form, bad):
    folder = form(build(names=images.wnids))
    file = min(folder.glob("*-train*"))
    file.write_bytes(bad(file.read_bytes()))
    with pytest.raises(InputError) as error:
        contents(list_source(folder).train)
    assert str(file) in error.value.what


def test_an_array_record_damaged_after_it_was_listed(build, images):
    folder = as_array_records(build(names=images.wnids))
    listing = list_source(folder)
    file = Path(listing.train.paths[0])
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    at = whole.index(b"train0.JPEG")
    whole[at] ^= 1
    file.write_bytes(whole)
    with pytest.raises(InputError) as error:
        contents(listing.train)
    assert str(file) in error.value.what
    file.unlink()
    with pytest.raises(InputError) as error:
        contents(listing.train)
    assert str(file) in error.value.what


def test_a_wordnet_id_that_is_no_text(tmp_path, images):
    records(
        tmp_path / "r" / "train.tfrecord",
        [
            example(
                image=images.encoded(i), label=i, image__class__synset=[b"n01440764", b"n\xff"][i]
            )
            for i in range(2)
        ],
    )
    with pytest.raises(InputError, match=r"record 0000001 of .*train.tfrecord .*n.xff"):
        list_source(tmp_path / "r")


def test_an_unlabelled_test_part_is_skipped(build, images, tmp_path):
    folder = build(names=images.wnids)
    records(
        folder / "imagenet2012-test.tfrecord-00000-of-00001",
        [example(image=images.encoded(0), label=-1)],
    )
    assert len(list_source(folder).test) == 3


def test_what_is_wrong_with_records(build, images, tmp_path):
    folder = build(names=images.wnids)
    one = folder / "imagenet2012-train.tfrecord-00001-of-00002"
    good = one.read_bytes()
    one.write_bytes(good[:-30])
    with pytest.raises(InputError, match=r"train.tfrecord-00001.* cut off or damaged \(record 2\)"):
        list_source(folder)
    records(one, [example(image=images.encoded(0), label=0)])
    with pytest.raises(InputError, match=r"00001-of-00002 has 1 records: expected 3"):
        list_source(folder)
    records(one, [example(label=0)])
    with pytest.raises(InputError, match="has the keys"):
        list_source(folder)
    records(one, [b"\xff\xff"])
    with pytest.raises(InputError, match=r"record 0 of .*tf.train.Example"):
        list_source(folder)
    one.unlink()
    with pytest.raises(InputError, match="1 TFRecord files of train"):
        list_source(folder)


def test_labels_out_of_range(build, images):
    folder = build(names=images.wnids[:2])
    with pytest.raises(InputError, match=r"label -1 .*expected 0 to 1"):
        list_source(folder)


def test_without_tensorflow(build, images, monkeypatch):
    folder = build(names=images.wnids)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(InputError, match="without TensorFlow"):
        list_source(folder)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_changes_no_label(tmp_path, images, data):
    """Damage is refused, or every image found is unchanged; classes by label or WordNet id."""
    source = tmp_path / "r" / "train.tfrecord"
    wnids = data.draw(st.booleans())
    originals = [images.encoded(i, "PNG") for i in range(4)]
    records(
        source,
        [
            example(
                image=content,
                label=i % 2,
                file_name=f"{i}.PNG".encode(),
                **({"image__class__synset": images.wnids[i % 2].encode()} if wnids else {}),
            )
            for i, content in enumerate(originals)
        ],
    )
    source.write_bytes(images.damaged(data, source.read_bytes(), ("cut", "flip", "exchange")))
    try:
        listing = list_source(tmp_path / "r")
    except InputError:
        return
    # Cut between two records, nothing says that there were more; all other damage is detected.
    part, content = listing.train, source.read_bytes()
    assert labels(part) == {f"{i}.PNG": i % 2 for i in range(len(part))}
    rows = zip(part.offsets, part.sizes, strict=True)
    assert [content[at : at + size] for at, size in rows] == originals[: len(part)]


def test_a_byte_order_mark_hides_no_wordnet_id(build, images):
    names = "\r\n".join(["n02119789", "n01443537", "n01440764"])
    want = list_source(build(names=names.split())).train
    source = build(files={"label.labels.txt": "\ufeff" + names})
    assert labels(list_source(source).train) == labels(want)
    source = build(files={"label.labels.txt": "n02119789\nn01443537\ntench"})
    with pytest.raises(InputError, match="2 WordNet ids in 3 lines"):
        list_source(source)
