import gzip
import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.data import images as reading
from frepo_scale.data import memory
from frepo_scale.data.memory import Loaded, Wanted, load_images
from frepo_scale.data.sources import class_folders
from frepo_scale.data.sources.class_folders import ClassFolders
from frepo_scale.data.sources.listing import Listing
from frepo_scale.data.sources.registry import list_with

WANT = Wanted(channels=3, resolution=4, fit="crop")


def listed(path: Path) -> Listing:
    return list_with(ClassFolders(), path, lambda: None, None)


def read_folder(path: Path, want: Wanted) -> Loaded:
    return load_images(listed(path), want, str(path))


def png(value: int, size: tuple[int, int] = (4, 4), grey: bool = False) -> bytes:
    out = io.BytesIO()
    colour = value if grey else (value, 1, 2)
    Image.new("L" if grey else "RGB", size, colour).save(out, "PNG")
    return out.getvalue()


FILES = {
    "train/b/2.png": png(12),
    "train/a/9.PNG": png(29),
    "train/a/10.png": png(10),
    "train/b/1.png": png(11),
    "test/b/1.png": png(21),
    "test/a/1.png": png(20),
    "README.txt": b"x",
    "train/a/.DS_Store": b"x",
    "train/a/notes.txt": b"x",
    "train/b/Thumbs.db": b"x",
    "train/b/._1.png": b"x",
    "sample.png": b"not an image, and not in a part",
}


def write(root: Path, files: dict[str, bytes], form: str, top: str = "") -> Path:
    """The files as a directory, a tar or a tar.gz below `root`."""
    if form == "directory":
        for name, data in files.items():
            path = root / "d" / (top + name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root / "d"
    path = root / f"x.{form}"
    with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(top + name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def reds(found: Loaded) -> tuple[list[int], list[int]]:
    return found.train.images[:, 0, 0, 0].tolist(), found.test.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("top", ["", "./", "top/", "./top/"])
@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
def test_every_form_reads_alike(tmp_path: Path, form: str, top: str) -> None:
    source = write(tmp_path, FILES, form, top)
    found = read_folder(source, WANT)
    assert listed(source).class_names == ("a", "b")
    assert reds(found) == ([10, 29, 11, 12], [20, 21])  # sorted by path, in any order of storage
    assert found.train.labels.tolist() == [0, 0, 1, 1] and found.test.labels.tolist() == [0, 1]
    assert found.train.labels.dtype == np.int32 and found.train.images.dtype == np.uint8
    assert found.train.images.shape == (4, 4, 4, 3)
    assert (found.native, found.skipped) == (True, ())
    assert listed(tmp_path / ("d" if form == "directory" else f"x.{form}")).class_names == (
        "a",
        "b",
    )


def test_a_directory_has_train_at_the_root_or_below_one_folder(tmp_path: Path) -> None:
    assert not ClassFolders().matches(tmp_path)
    write(tmp_path, FILES, "directory")
    assert ClassFolders().matches(tmp_path / "d") and ClassFolders().matches(tmp_path)


@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
def test_tiny_imagenets_own_layout(tmp_path: Path, form: str) -> None:
    files = {
        "train/n1/images/n1_0.JPEG": png(10),
        "train/n1/n1_boxes.txt": b"n1_0.JPEG\t0\t0\t9\t9",
        "train/n2/images/n2_0.JPEG": png(11),
        "val/images/val_0.JPEG": png(20),
        "val/val_annotations.txt": b"val_0.JPEG\tn2\t0\t0\t9\t9\n",
        "test/images/test_0.JPEG": b"never read",
        "words.txt": b"n1\tgoldfish, x\nn2\ttench\n",
    }
    source = write(tmp_path, files, form, "tiny-imagenet-200/")
    found = read_folder(source, WANT)
    assert listed(source).class_names == ("goldfish", "tench")
    assert found.test.labels.tolist() == [1] and not found.skipped


@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
def test_unreadable_images_are_counted(tmp_path: Path, form: str) -> None:
    bad = {"train/b/3.png": b"x", "train/a/3.png": png(1)[:-30], "test/a/3.jpg": b""}
    source = write(tmp_path, bad | FILES, form)
    with pytest.raises(InputError, match=r"3 unreadable images in .*, the first .*a/3\.(png|jpg)"):
        read_folder(source, WANT)
    with pytest.raises(InputError, match="at most 2"):
        read_folder(source, replace(WANT, skip_unreadable=2))
    found = read_folder(source, replace(WANT, skip_unreadable=3))
    assert len(found.skipped) == 3 and reds(found) == ([10, 29, 11, 12], [20, 21])


def test_a_part_with_nothing_readable(tmp_path: Path) -> None:
    files = FILES | {"test/a/1.png": b"x", "test/b/1.png": b"y"}
    with pytest.raises(InputError, match="no readable test image"):
        read_folder(write(tmp_path, files, "directory"), replace(WANT, skip_unreadable=9))


@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
def test_an_empty_class_folder_is_refused(tmp_path: Path, form: str) -> None:
    if form == "directory":
        source = write(tmp_path, FILES, form)
        (source / "train" / "c").mkdir()
    else:
        source = tmp_path / f"x.{form}"
        with tarfile.open(source, "w:gz" if form == "tar.gz" else "w") as tar:
            entry = tarfile.TarInfo("train/c")
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
            tar.add(write(tmp_path, FILES, "directory"), ".")
    with pytest.raises(InputError, match=r"train/c in .* holds no image"):
        read_folder(source, WANT)


def test_sizes(tmp_path: Path) -> None:
    source = write(tmp_path, FILES | {"train/b/8.png": png(99, (6, 4))}, "directory")
    assert not read_folder(source, WANT).native
    with pytest.raises(InputError, match=r"b/8.png is 6x4: expected 4x4 or 8x8"):
        read_folder(source, replace(WANT, sizes=frozenset({4, 8})))
    with pytest.raises(InputError, match=r"b/8.png is 6x4: expected squares of one size"):
        read_folder(source, replace(WANT, resolution=None))
    (source / "train/b/8.png").write_bytes(png(99, (6, 6)))
    with pytest.raises(InputError, match=r"b/8.png is 6x6: expected squares of one size"):
        read_folder(source, replace(WANT, resolution=None))
    with pytest.raises(InputError, match=r"b/8.png is 6x6: expected 4x4 or 8x8"):
        read_folder(source, replace(WANT, sizes=frozenset({4, 8})))
    (source / "train/b/8.png").write_bytes(png(99))
    found = read_folder(source, replace(WANT, resolution=None))
    assert found.native and found.train.images.shape == (5, 4, 4, 3)


def test_channels_of_a_users_data(tmp_path: Path) -> None:
    grey = {
        name: png(5 + i, grey=True) if name.startswith("t") else data
        for i, (name, data) in enumerate(FILES.items())
    }
    want = replace(WANT, channels=None)
    found = read_folder(write(tmp_path, grey, "tar"), want)
    assert found.train.images.shape == (4, 4, 4, 1) and reds(found) == ([7, 6, 8, 5], [10, 9])
    mixed = grey | {"test/a/1.png": png(6)}
    assert read_folder(write(tmp_path, mixed, "tar"), want).train.images.shape == (4, 4, 4, 3)


def test_more_images_than_are_in_flight_keep_their_order(tmp_path: Path) -> None:
    count = memory._GROUP * (2 * memory._THREADS + 3)
    files = {f"train/{i % 2}/{i:05}.png": png(i % 251) for i in range(count)}
    found = read_folder(write(tmp_path, files | {"test/1/0.png": png(7)}, "tar.gz"), WANT)
    want = [i % 251 for k in (0, 1) for i in range(k, count, 2)]
    assert reds(found)[0] == want


def test_no_thread_is_left_after_a_refusal(tmp_path: Path) -> None:
    source = write(tmp_path, FILES | {"train/a/0.png": png(1, (9, 9))}, "directory")
    with pytest.raises(InputError) as caught:
        read_folder(source, replace(WANT, sizes=frozenset({4})))
    assert caught.value.__traceback__ is not None  # its frames still exist, its threads must not
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_links_are_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"x.{form}"
    with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as tar:
        for name in ("logo.png", "train/a/1.png"):  # the first is in no part
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.LNKTYPE, "train/a/0.png"
            tar.addfile(entry)
    with pytest.raises(InputError, match=r"train/a/1\.png in .* is a link"):
        read_folder(path, WANT)


def test_far_too_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_folders, "MAX_BYTES", 10)
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(InputError, match=r"image train/b/2\.png claims \d+ bytes"):
        read_folder(write(tmp_path, FILES, "tar"), WANT)
    with pytest.raises(InputError, match=r"6 unreadable images .* bytes are too many"):
        read_folder(write(tmp_path, FILES, "directory"), WANT)


def test_a_later_entry_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        between = [("train/a/9.PNG", png(0))] * memory._GROUP * (2 * memory._THREADS + 2)
        first, last = ("train/b/1.png", b"bad"), ("train/b/2.png", png(77))
        for name, data in [first, *between, *FILES.items(), last]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    found = read_folder(path, WANT)
    assert reds(found)[0] == [10, 29, 11, 77] and not found.skipped


def test_a_missing_test_part_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "decode_image", None)  # calling it would be a TypeError
    only_train = {name: data for name, data in FILES.items() if not name.startswith("test")}
    for form in ("tar", "tar.gz", "directory"):
        with pytest.raises(InputError, match=r"test part of .* is empty"):
            read_folder(write(tmp_path, only_train, form), WANT)


def test_circular_links_end(tmp_path: Path) -> None:
    source = write(tmp_path, FILES, "directory")
    (source / "train" / "a" / "loop").symlink_to(source / "train" / "a")
    with pytest.raises(InputError, match="not in a class folder"):
        read_folder(source, WANT)


def test_broken_links_are_unreadable(tmp_path: Path) -> None:
    source = write(tmp_path, FILES, "directory")
    (source / "train" / "a" / "0.png").symlink_to(source / "gone.png")
    with pytest.raises(
        InputError, match=r"1 unreadable images in .* \S*train/a/0\.png .*missing file"
    ):
        read_folder(source, WANT)


QUICK = settings(
    max_examples=80, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(form=st.sampled_from(["tar", "tar.gz"]), where=st.floats(0, 0.9999), bit=st.integers(0, 7))
def test_damage_changes_no_label(tmp_path: Path, form: str, where: float, bit: int) -> None:
    source = write(tmp_path, FILES, "tar")
    good = source.read_bytes() if form == "tar" else gzip.compress(source.read_bytes())
    source = tmp_path / f"x.{form}"
    at = int(where * len(good))
    flipped = good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
    for data in (good[:at], flipped):
        source.write_bytes(data)
        try:
            found, names = read_folder(source, WANT), listed(source).class_names
        except InputError:
            continue
        assert names == ("a", "b") and len(found.train) == 4
        assert found.train.labels.tolist() == [0, 0, 1, 1]
        assert found.test.labels.tolist() == [0, 1]
        if form == "tar.gz":
            assert reds(found) == ([10, 29, 11, 12], [20, 21])
