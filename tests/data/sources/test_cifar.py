import gzip
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.sources import cifar
from frepo_scale.data.sources.cifar import CifarFiles
from frepo_scale.data.sources.listing import Part

QUICK = settings(
    max_examples=60, deadline=4000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
RNG = np.random.default_rng(0)
NAMES10 = [f"name{i}" for i in range(10)]
NAMES100 = [f"name{i}" for i in range(100)]


def read_batches(name: str, path: Path) -> tuple[Part, Part, tuple[str, ...]]:
    found = CifarFiles(name).listing(path, lambda: None)
    assert found.class_names is not None
    return found.train, found.test, found.class_names


def matches(name: str, path: Path) -> bool:
    return CifarFiles(name).matches(path)


def planes(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3072)).astype(np.uint8)


def cifar10_binary() -> dict[str, bytes]:
    files = {"batches.meta.txt": ("\n".join(NAMES10) + "\n\n").encode()}
    for index, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        labels = np.array([2 * index % 10, (2 * index + 1) % 10], np.uint8)
        files[name] = np.concatenate([labels[:, None], planes(2)], 1).tobytes()
    return files


def cifar10_python(protocol: int = 2) -> dict[str, bytes]:
    files = {"batches.meta": pickle.dumps({"label_names": NAMES10}, protocol)}
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        labels = [2 * index % 10, (2 * index + 1) % 10]
        batch = {b"batch_label": b"x", b"labels": labels, b"data": planes(2)}
        files[name] = pickle.dumps(batch, protocol)
    return files


def cifar100_binary() -> dict[str, bytes]:
    files = {"fine_label_names.txt": "\n".join(NAMES100).encode()}
    for name, fine in (("train.bin", np.arange(100)), ("test.bin", np.arange(20))):
        labels = np.stack([fine // 5, fine], 1).astype(np.uint8)
        files[name] = np.concatenate([labels, planes(len(fine))], 1).tobytes()
    return files


def cifar100_python() -> dict[str, bytes]:
    files = {"meta": pickle.dumps({"fine_label_names": NAMES100}, 2)}
    for name, count in (("train", 100), ("test", 20)):
        fine = list(range(count))
        batch = {
            "data": planes(count),
            "fine_labels": fine,
            "coarse_labels": [i // 5 for i in fine],
        }
        files[name] = pickle.dumps(batch, 2)
    return files


FORMS: dict[str, Any] = {
    "cifar-10-batches-bin": ("cifar10", cifar10_binary()),
    "cifar-10-batches-py": ("cifar10", cifar10_python()),
    "cifar-100-binary": ("cifar100", cifar100_binary()),
    "cifar-100-python": ("cifar100", cifar100_python()),
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, top: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(top)
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_reads_every_published_form(tmp_path: Path, form: str, packed: bool) -> None:
    name, files = FORMS[form]
    if packed:
        source = pack(tmp_path / f"{form}.tar.gz", form, files)
        assert matches(name, source)
    else:
        write(tmp_path / form, files)
        source = tmp_path
        assert matches(name, source) and matches(name, tmp_path / form)
    train, test, names = read_batches(name, source)
    classes = 10 if name == "cifar10" else 100
    assert names == tuple(f"name{i}" for i in range(classes))
    np.testing.assert_array_equal(train.labels, np.arange(classes))
    assert train.pixels.shape == (classes, 32, 32, 3) and train.pixels.dtype == np.uint8
    assert test.pixels.shape == (classes // 5, 32, 32, 3)


def test_planes_become_pixels_in_both_forms(tmp_path: Path) -> None:
    row = planes(1)[0]
    want = row.reshape(3, 32, 32).transpose(1, 2, 0)
    files = cifar10_binary()
    files["data_batch_3.bin"] = (b"\x04" + row.tobytes()) * 2
    train, _, _ = read_batches("cifar10", write(tmp_path / "b", files))
    np.testing.assert_array_equal(train.pixels[4], want)
    files = cifar10_python()
    files["data_batch_3"] = pickle.dumps({"labels": [4, 4], "data": np.stack([row, row])}, 2)
    train, _, _ = read_batches("cifar10", write(tmp_path / "p", files))
    np.testing.assert_array_equal(train.pixels[4], want)
    assert train.labels[4] == 4


def test_without_names_classes_are_numbers(tmp_path: Path) -> None:
    files = cifar10_binary()
    del files["batches.meta.txt"]
    assert read_batches("cifar10", write(tmp_path / "x", files))[2] == tuple("0123456789")


def test_nothing_is_found_at_other_paths(tmp_path: Path) -> None:
    assert not matches("cifar10", tmp_path)
    write(tmp_path, cifar100_binary())
    assert not matches("cifar10", tmp_path)
    images = pack(tmp_path / "x.tar.gz", "train/cat", {"1.jpg": b"x"})
    assert not matches("cifar10", images)
    assert not matches("cifar10", pack(tmp_path / "y.tar.gz", "y", {"z": b""}))
    late = pack(tmp_path / "z.tar.gz", "train/cat", {"1.jpg": b"x", "test_batch": b"x"})
    assert not matches("cifar10", late)
    assert not matches("cifar10", tmp_path / "missing.tar")


BAD: list[tuple[str, str, Any, str]] = [
    ("cifar-10-batches-bin", "data_batch_4.bin", None, "has no data_batch_4.bin"),
    ("cifar-10-batches-bin", "test_batch.bin", None, "has no test_batch.bin"),
    (
        "cifar-10-batches-bin",
        "data_batch_4.bin",
        lambda d: d[:-1],
        r"data_batch_4.bin .*6145 bytes",
    ),
    ("cifar-10-batches-bin", "data_batch_4.bin", lambda d: b"", "0 bytes"),
    ("cifar-10-batches-bin", "data_batch_4.bin", lambda d: d[:3073], "2, 2, 2, 1, 2, 2"),
    ("cifar-10-batches-bin", "batches.meta.txt", lambda d: d[:-9], "10 class names"),
    ("cifar-10-batches-bin", "batches.meta.txt", lambda d: d.replace(b"9", b"8"), "class names"),
    ("cifar-10-batches-bin", "batches.meta.txt", lambda d: d + b"name9\n", "10 class names"),
    ("cifar-10-batches-py", "data_batch_4", lambda d: d[:-1], "data_batch_4 .*as a CIFAR pickle"),
    ("cifar-10-batches-py", "data_batch_4", lambda d: pickle.dumps([1], 2), "holds no dict"),
    ("cifar-10-batches-py", "batches.meta", lambda d: pickle.dumps({}, 2), "10 class names"),
    ("cifar-100-binary", "train.bin", lambda d: d[: -3074 * 5], r"95, 20"),
    ("cifar-100-python", "test", None, "has no test"),
]


@pytest.mark.parametrize(("form", "file", "change", "message"), BAD)
def test_bad_files(tmp_path: Path, form: str, file: str, change: Any, message: str) -> None:
    name, files = FORMS[form]
    files = dict(files)
    if change is None:
        del files[file]
    else:
        files[file] = change(files[file])
    with pytest.raises(InputError, match=message):
        read_batches(name, write(tmp_path / form, files))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [1, 2]}, "'data' is not a uint8 array"),
        ({"labels": [1, 2], "data": b"x"}, "'data' is not a uint8 array"),
        ({"labels": [1, 2], "data": planes(2)[:, 1:]}, "'data' is not a uint8 array"),
        ({"data": planes(2)}, "'labels' is not a list of 2"),
        ({"labels": [1], "data": planes(2)}, "'labels' is not a list of 2"),
        ({"labels": [1, 300], "data": planes(2)}, "'labels' is not a list of 2"),
        ({"labels": [1, True], "data": planes(2)}, "'labels' is not a list of 2|it uses"),
        ({"labels": [1, "2"], "data": planes(2)}, "'labels' is not a list of 2"),
        ({"labels": [1, 2], "data": {1: 2}}, "'data' is not a uint8 array"),
        ({"labels": [1, 2], "data": {(1, 2): 3}}, "'data' is not a uint8 array"),
        ({"labels": [1, 2], "data": 1.5}, "'data' is not a uint8 array"),
        ({"labels": [1.0, 2.0], "data": planes(2)}, "'labels' is not a list of 2"),
    ],
)
def test_bad_batches(tmp_path: Path, batch: dict[str, Any], message: str) -> None:
    files = cifar10_python()
    files["data_batch_2"] = pickle.dumps(batch, 2)
    with pytest.raises(InputError, match=message) as caught:
        read_batches("cifar10", write(tmp_path / "x", files))
    assert "data_batch_2" in str(caught.value)


def test_a_class_in_two_superclasses_is_noticed(tmp_path: Path) -> None:
    files = cifar100_binary()
    data = bytearray(files["test.bin"])
    data[1] = 50  # class 50 in superclass 0
    files["test.bin"] = bytes(data)
    with pytest.raises(InputError, match="class 50 is in superclass 0 and in 10"):
        read_batches("cifar100", write(tmp_path / "x", files))


def test_a_file_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_MAX_FILE", 100)
    for source in (
        write(tmp_path / "x", cifar10_binary()),
        pack(tmp_path / "x.tar.gz", "x", cifar10_binary()),
    ):
        with pytest.raises(InputError, match="too many for a CIFAR file"):
            read_batches("cifar10", source)


PACKED: dict[str, bytes] = {}


@QUICK
@given(form=st.sampled_from(sorted(FORMS)), where=st.floats(0, 0.999999), bit=st.integers(0, 7))
def test_damage_to_an_archive_is_noticed(tmp_path: Path, form: str, where: float, bit: int) -> None:
    name, files = FORMS[form]
    if form not in PACKED:
        raw = gzip.decompress(pack(tmp_path / "x.tar.gz", form, files).read_bytes())
        PACKED[form] = gzip.compress(raw, 1)
    good = PACKED[form]
    at = int(where * len(good))
    path = tmp_path / "x.tar.gz"
    path.write_bytes(good)
    want = read_batches(name, path)
    path.write_bytes(good[:at])
    with pytest.raises(InputError):
        read_batches(name, path)
    path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
    try:
        got = read_batches(name, path)
    except InputError:
        return
    for one, other in zip(got[:2], want[:2], strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.labels, other.labels)


@QUICK
@given(form=st.sampled_from(sorted(FORMS)), data=st.data(), byte=st.integers(0, 255))
def test_damage_to_unpacked_files_is_an_input_error_or_well_formed(
    tmp_path: Path, form: str, data: st.DataObject, byte: int
) -> None:
    name, files = FORMS[form]
    file = data.draw(st.sampled_from(sorted(files)))
    # Structure is at the ends; in between are pixels, which nothing protects.
    at = data.draw(
        st.integers(-250, 250).filter(lambda i: -len(files[file]) <= i < len(files[file]))
    )
    changed = bytearray(files[file])
    changed[at] = byte
    try:
        train, test, names = read_batches(
            name, write(tmp_path / form, files | {file: bytes(changed)})
        )
    except InputError:
        return
    assert len(names) in (10, 100) and len(train) == len(train.pixels)
    assert len(train) == 5 * len(test) or name == "cifar10"
