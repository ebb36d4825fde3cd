"""The ILSVRC archives, intact and damaged."""

import gzip
import io
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources.registry import list_source

TABLE = b"n02119789 1 kit_fox\nn01443537 2 goldfish\nn01440764 3 tench\n"  # not in sorted order
VAL = [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 5)]
WANT = ["n01443537", "n02119789", "n01440764", "n01443537"]


def meta_mat():
    """The devkit's table of classes, with a super-class in it."""
    rows = [(1, "n02119789", 0), (2, "n01443537", 0), (3, "n01440764", 0), (4, "n00000001", 3)]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.zeros(len(rows), [*kinds, ("num_children", "O")])
    for row, (number, wnid, children) in enumerate(rows):
        synsets[row] = (number, wnid, "words", "gloss", children)
    out = io.BytesIO()
    savemat(out, {"synsets": synsets})
    return out.getvalue()


def gz_tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def archives(tmp_path, images):
    """Writes both archives and further files, and lists them."""

    def make(files=(), val=VAL, train=None):
        inner = {
            f"{w}.tar": images.tar_of({f"{w}_{i}.JPEG": images.encoded(i) for i in range(2)})
            for w in images.wnids
        }
        own = {"ILSVRC2012_img_train.tar": images.tar_of(inner if train is None else train)}
        if val:
            own["ILSVRC2012_img_val.tar"] = images.tar_of(
                {name: images.encoded(i) for i, name in enumerate(val)}
            )
        return list_source(images.write(tmp_path / "a", own | dict(files)))

    return make


def classes(listing):
    """The wnid of each validation image in the order of their numbers."""
    by_base = {
        n.split("/")[1]: listing.wnids[k]
        for n, k in zip(listing.test.names, listing.test.labels, strict=True)
    }
    return [by_base[name.split("/")[-1]] for name in VAL]


TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    "files",
    [
        {TRUTH: b"2\n1\n3\n2\n", "map_clsloc.txt": TABLE},
        {TRUTH: b"2\n1\n3\n2", "data/meta.mat": meta_mat()},
        {
            "ILSVRC2012_devkit_t12.tar.gz": gz_tar(
                {f"d/data/{TRUTH}": b"2\n1\n3\n2\n", "d/data/meta.mat": meta_mat()}
            )
        },
        {TRUTH: b"\xef\xbb\xbf2\r\n1\r\n3\r\n2\r\n", "map_clsloc.txt": b"\xef\xbb\xbf" + TABLE},
        {TRUTH: "".join(f"{n} {w}\n" for n, w in zip(VAL[::-1], WANT[::-1], strict=True)).encode()},
        {"imagenet_2012_validation_synset_labels.txt": "\n".join(WANT).encode()},
        {
            "LOC_val_solution.csv": b"ImageId,PredictionString\n"
            + "".join(f"{n[:-5]},{w} 1 2 3 4 \n" for n, w in zip(VAL, WANT, strict=True)).encode()
        },
    ],
    ids=["table", "meta", "devkit", "windows", "named", "wnids", "csv"],
)
def test_every_ground_truth(archives, files):
    listing = archives(files)
    assert classes(listing) == WANT
    assert listing.name == "imagenet1k"


def test_validation_images_in_folders(archives):
    val = [f"val/{w}/{n}" for n, w in zip(VAL, WANT, strict=True)]
    assert classes(archives(val=val)) == WANT


def test_training_images_only(archives):
    listing = archives(val=())
    assert len(listing.test) == 0
    assert "training images only" in listing.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no classes: no ground truth"),
        ({TRUTH: b"2\n1\n3\n2\n"}, "devkit's own order"),
        ({TRUTH: b"2\n1\n4\n2\n", "map_clsloc.txt": TABLE}, "line 3 .*'4': expected a class from"),
        ({TRUTH: b"2\n0\n3\n2\n", "map_clsloc.txt": TABLE}, "line 2 .*'0'"),
        ({TRUTH: b"2\n1\n3\n", "map_clsloc.txt": TABLE}, "has 3 lines: expected 4"),
        ({TRUTH: b"2\n1\n3\n2\n", "map_clsloc.txt": b"n1 1 x\n"}, "does not number WordNet ids"),
        (
            {TRUTH: b"2\n1\n3\n2\n", "map_clsloc.txt": TABLE + b"n02119789 3 again\n"},
            "does not number WordNet ids",
        ),
        ({TRUTH: b"2\n1\n3\n2\n", "meta.mat": b"nonsense"}, "meta.mat cannot be read"),
        ({TRUTH: b"x n01443537\n"}, "line 1 of"),
        ({TRUTH: f"{VAL[0]} n01443537\n".encode()}, f"no line for {VAL[1]}"),
        ({TRUTH: f"{VAL[0]} 5 6\n".encode()}, "line 1 of"),
        ({"imagenet_2012_validation_synset_labels.txt": b"n99999999\n" * 4}, "class n99999999"),
    ],
)
def test_ground_truths_that_do_not_fit(archives, files, message):
    with pytest.raises(InputError, match=message):
        archives(files)


def test_invalid_training_archives(archives, images):
    for train, message in (
        ({}, "is empty"),
        ({"n01440764.tar": b""}, "n01440764|cannot be read|cut off"),
        ({"x.JPEG": images.encoded(0)}, "one tar per class"),
        ({"n01440764.tar": images.tar_of({"n_1.JPEG": images.encoded(0)})[:700]}, "read|cut off"),
        ({f"{w}.tar": images.tar_of({}) for w in images.wnids}, "train part of .* is empty"),
    ):
        with pytest.raises(InputError, match=message):
            archives(train=train, val=())


@settings(
    max_examples=100, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_changes_no_label(tmp_path, images, data):
    """Damage is refused, or no image has the bytes of an image of another class."""
    inner, originals = {}, {}
    for number, wnid in enumerate(images.wnids):
        files = {f"{wnid}_{i}.JPEG": images.encoded(10 * number + i, "PNG") for i in range(2)}
        inner[f"{wnid}.tar"] = images.tar_of(files)
        originals |= {f"{wnid}/{name}": content for name, content in files.items()}
    kinds = ("cut", "flip", "blocks", "exchange")
    bad = images.damaged(data, images.tar_of(inner), kinds)
    source = images.write(tmp_path / "f", {"ILSVRC2012_img_train.tar": bad})
    try:
        listing = list_source(source)
    except InputError:
        return
    assert not images.misplaced(listing, originals) and len(listing.train) <= 6


def test_lines_count_images_by_their_numbers(archives):
    table = {"map_clsloc.txt": TABLE}
    names = [f"top/val_{i}.JPEG" for i in range(1, 12)]
    truth = "".join(f"{1 + i % 3}\n" for i in range(11)).encode()
    listing = archives({TRUTH: truth, **table}, val=names[::-1])
    found = dict(zip(listing.test.names, listing.test.labels.tolist(), strict=True))
    order = ["n02119789", "n01443537", "n01440764"]
    assert set(found) == {f"{order[i % 3]}/val_{i + 1}.JPEG" for i in range(11)}
    assert all(listing.wnids[k] == name.split("/")[0] for name, k in found.items())


@pytest.mark.parametrize(
    "names",
    [
        [*VAL[:3], "ILSVRC2012_val_00000009.JPEG"],
        ["val_0.JPEG", "val_2.JPEG", "val_7.JPEG"],
        ["val_0.JPEG", "val_1.JPEG", "val_2.JPEG"],
        ["a.JPEG", "val_5.JPEG", "val_9.JPEG"],
        ["a.JPEG", "b.JPEG", "c.JPEG"],
        ["x/val_1.JPEG", "y/val_1.JPEG", "val_3.JPEG"],
    ],
)
@pytest.mark.parametrize("by", ["number", "wnid"])
def test_lines_say_nothing_of_images_without_their_numbers(archives, names, by):
    if by == "number":
        files = {TRUTH: b"2\n1\n3\n2\n"[: 2 * len(names)], "map_clsloc.txt": TABLE}
    else:
        lines = "\n".join(WANT[: len(names)])
        files = {"imagenet_2012_validation_synset_labels.txt": lines.encode()}
    with pytest.raises(InputError, match=f"not numbered from 1 to {len(names)}"):
        archives(files, val=names)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_move_no_image(tmp_path, images, form):
    """Their headers take further blocks, within the inner tar too."""

    def tar(files):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(data), 0.5 if form == tarfile.PAX_FORMAT else 0
                archive.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    want = {}
    inner = {"._x.tar": b"a Mac's"}
    for number, wnid in enumerate(images.wnids):
        folders = "/".join(["d" * 40] * 3)
        files = {f"{folders}/{wnid}_{i}.JPEG": images.encoded(10 * number + i) for i in range(3)}
        want |= {f"{wnid}/{name.rsplit('/', 1)[1]}": data for name, data in files.items()}
        inner[f"{folders}/{wnid}.tar"] = tar(files)
    part = list_source(images.write(tmp_path, {"ILSVRC2012_img_train.tar": tar(inner)})).train
    data = (tmp_path / "ILSVRC2012_img_train.tar").read_bytes()
    rows = zip(part.names, part.offsets, part.sizes, strict=True)
    assert {name: data[start : start + size] for name, start, size in rows} == want


def test_compressed_archives_have_no_random_access(archives, images, tmp_path):
    archives(val=())
    for name in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        source = tmp_path / name
        train = (tmp_path / "a" / "ILSVRC2012_img_train.tar").read_bytes()
        files = {"ILSVRC2012_img_train.tar": train, name: gzip.compress(train)}
        with pytest.raises(InputError, match=f"{name} is compressed"):
            list_source(images.write(source, files))


def test_images_of_another_class_are_refused(archives, images):
    inner = {f"{w}.tar": images.tar_of({f"{w}_0.JPEG": b"x"}) for w in images.wnids}
    inner["n01440764.tar"] = inner["n01443537.tar"]
    with pytest.raises(InputError, match=r"n01440764\.tar in .* holds n01443537_0\.JPEG"):
        archives(train=inner, val=())
