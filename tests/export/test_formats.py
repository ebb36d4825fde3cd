import csv
import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing, Whitening, fit_preprocessing
from frepo_scale.export.folder import write_folder
from frepo_scale.export.formats import (
    FORMAT,
    Export,
    read_npz,
    symmetric_matrix,
    upper_triangle,
    write_npz,
)

STATISTICS = ("channel_mean", "channel_std")
WHITENING = ("whitening_mean", "whitening_upper")
ARRAYS = ("images", "labels", "hard_labels", *STATISTICS, *WHITENING)


def make(channels: int = 3, per_class: int = 2, size: int = 4) -> Export:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (200, size, size, channels), dtype=np.uint8)
    preprocessing = fit_preprocessing(real, whiten=channels == 3)
    names = ("cat", "dog/wolf", "ça va")
    n = len(names) * per_class
    labels = rng.normal(size=(n, len(names))).astype(np.float32)
    return Export(
        images=preprocessing.apply(real[:n]),
        labels=labels,
        hard_labels=np.repeat(np.arange(len(names), dtype=np.int32), per_class),
        class_names=names,
        preprocessing=preprocessing,
        evaluation={"net": "convnet", "steps": 1000, "learning_rate": 3e-4},
        provenance={"dataset": "made up", "step": 5, "versions": {"numpy": "2"}},
        results={"distilled": {"mean": 0.5, "std": 0.1, "n": 3}},
    )


def write_as_version_1(path: Path, export: Export) -> None:
    """As earlier versions wrote it: the whole matrix, its inverse, no results."""
    write_npz(path, export)
    with np.load(path) as npz:
        arrays = dict(npz)
    arrays.pop("whitening_upper", None)
    meta = {"format": "frepo_scale-distilled-1", "evaluation": export.evaluation}
    arrays["meta"] = np.array(json.dumps(meta | {"provenance": export.provenance}))
    np.savez(path, **arrays | export.preprocessing.arrays())


def arrays_of(export: Export) -> dict[str, np.ndarray]:
    arrays = {name: getattr(export, name) for name in ("images", "labels", "hard_labels")}
    arrays |= {name: getattr(export.preprocessing, name) for name in STATISTICS}
    if (whitening := export.preprocessing.whitening) is not None:
        arrays["whitening_mean"] = whitening.mean
        arrays["whitening_upper"] = upper_triangle(whitening.matrix)
    return arrays


def assert_equal(a: Export, b: Export) -> None:
    ours, theirs = arrays_of(a), arrays_of(b)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name, strict=True)
    assert a.class_names == b.class_names
    assert (a.evaluation, a.provenance) == (b.evaluation, b.provenance)
    assert a.results == b.results


def rewrite(path: Path, **changes: Any) -> None:
    """Replaces arrays of an .npz, or removes those given as None."""
    with np.load(path) as npz:
        arrays = dict(npz) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


floats = hnp.from_dtype(np.dtype(np.float32), allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False,
    allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
    max_size=3),
    max_leaves=6,
)  # fmt: skip
json_objects = st.dictionaries(st.text(max_size=6), json_values, max_size=3)


@st.composite
def exports(draw: st.DrawFn) -> Export:
    n, size, channels = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from((1, 3))),
    )
    names = draw(
        st.lists(
            st.text(st.characters(exclude_characters="\0"), max_size=8), min_size=1, max_size=4
        )
    )

    def array(*shape: int, elements: st.SearchStrategy = floats) -> np.ndarray:
        return draw(hnp.arrays(np.float32, shape, elements=elements))

    dim = size * size * channels
    whitening = None
    if draw(st.booleans()):
        matrix = symmetric_matrix(array(dim * (dim + 1) // 2))
        whitening = Whitening(array(dim), matrix, array(dim, dim))
    std = array(channels, elements=st.floats(0.125, 8, width=32))
    return Export(
        images=array(n, size, size, channels),
        labels=array(n, len(names)),
        hard_labels=draw(hnp.arrays(np.int32, n, elements=st.integers(0, len(names) - 1))),
        class_names=tuple(names),
        preprocessing=Preprocessing(array(channels), std, whitening),
        evaluation=draw(json_objects),
        provenance=draw(json_objects),
        results=draw(json_objects),
    )


@settings(deadline=None, max_examples=60)
@given(exports())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # to_pixels of values up to 1e38
def test_npz_gives_back_what_was_written(export: Export) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_npz(f"{folder}/a.npz", export)
        assert_equal(read_npz(f"{folder}/a.npz"), export)


def test_npz_can_be_used_with_numpy_alone(tmp_path: Path) -> None:
    export = make()
    write_npz(tmp_path / "a.npz", export)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as npz:
        arrays = dict(npz)
    meta = json.loads(arrays["meta"].item())
    assert meta["format"] == FORMAT
    assert meta["evaluation"] == export.evaluation
    assert meta["provenance"] == export.provenance
    assert meta["results"] == export.results
    assert arrays["class_names"].tolist() == list(export.class_names)
    np.testing.assert_array_equal(arrays["images_uint8"], export.to_pixels(), strict=True)
    # Both directions, as the text in the file says.
    matrix = np.zeros((48, 48), np.float32)
    matrix[np.triu_indices(48)] = arrays["whitening_upper"]
    matrix += np.triu(matrix, 1).T
    flat = arrays["images"].reshape(len(export.images), -1).astype(np.float64)
    normalised = np.linalg.solve(matrix.astype(np.float64), flat.T).T + arrays["whitening_mean"]
    pixels = (
        normalised.reshape(export.images.shape) * arrays["channel_std"] + arrays["channel_mean"]
    )
    assert np.abs(255 * pixels - arrays["images_uint8"]).max() < 0.51
    again = (arrays["images_uint8"] / 255 - arrays["channel_mean"]) / arrays["channel_std"]
    rows = (again.reshape(len(again), -1) - arrays["whitening_mean"]) @ matrix
    np.testing.assert_allclose(rows, flat, atol=1e-3)
    assert meta["preprocessing"]["grids_per_axis"] == 1
    assert sorted(arrays) == sorted([*ARRAYS, "images_uint8", "class_names", "meta"])


def test_npz_of_a_grey_set_has_no_whitening(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", make(channels=1))
    with np.load(tmp_path / "a.npz") as npz:
        assert not [name for name in npz.files if name.startswith("whitening")]
    assert read_npz(tmp_path / "a.npz").preprocessing.whitening is None


def test_the_matrix_is_stored_once(tmp_path: Path) -> None:
    export = make(size=16)
    write_npz(tmp_path / "a.npz", export)
    side = 16 * 16 * 3
    assert (tmp_path / "a.npz").stat().st_size < 1.1 * side * (side + 1) // 2 * 4
    found = read_npz(tmp_path / "a.npz")
    fitted, read = export.preprocessing.whitening, found.preprocessing.whitening
    assert fitted is not None and read is not None and read.inverse is None
    np.testing.assert_array_equal(read.matrix, fitted.matrix)  # to the last bit
    np.testing.assert_allclose(read.invert(found.images), fitted.invert(export.images), atol=1e-3)
    np.testing.assert_array_equal(found.to_pixels(), export.to_pixels())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_of_the_first_version_is_read(tmp_path: Path, channels: int) -> None:
    export = make(channels=channels)
    write_as_version_1(tmp_path / "a.npz", export)
    assert_equal(read_npz(tmp_path / "a.npz"), dataclasses.replace(export, results={}))


def test_an_archive_that_decompresses_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is decompressed: 0.3 MB that stand for 300 MB."""
    path = tmp_path / "a.npz"
    write_npz(path, make(channels=1))
    with np.load(path) as npz:
        arrays = dict(npz)
    np.savez_compressed(path, **arrays | {"images": np.zeros((300, 512, 512, 1), np.float32)})
    assert path.stat().st_size < 2**20

    # Not an AssertionError, which the reader would report as damage.
    monkeypatch.setattr("zipfile.ZipFile.open", lambda *given: pytest.fail("decompressed"))
    with pytest.raises(InputError) as caught:
        read_npz(path)
    assert "a.npz" in caught.value.what


def test_shapes_are_compared_before_arrays_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    rewrite(path, labels=np.zeros((7, 3), np.float32))
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *given: pytest.fail("read"))
    with pytest.raises(InputError, match="array labels is"):
        read_npz(path)


def test_equal_exports_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = make()
    write_npz(tmp_path / "a.npz", export)
    monkeypatch.setattr("time.time", lambda: 2e9)
    turned = dataclasses.replace(
        export,
        images=np.asfortranarray(export.images),
        provenance=dict(reversed(export.provenance.items())),
    )
    write_npz(tmp_path / "b.npz", turned)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_every_truncation_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    whole = path.read_bytes()
    offsets = {*range(0, len(whole), 197), *range(len(whole) - 60, len(whole)), 1, 4, 29, 30, 31}
    for offset in offsets:
        path.write_bytes(whole[:offset])
        with pytest.raises(InputError, match=r"a\.npz"):
            read_npz(path)


def test_a_changed_byte_is_an_input_error_or_changes_nothing(tmp_path: Path) -> None:
    path, export = tmp_path / "a.npz", make(channels=1)
    write_npz(path, export)
    whole = path.read_bytes()
    refused = 0
    for offset in range(0, len(whole), 7):
        for flip in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ flip]) + whole[offset + 1 :])
            try:
                assert_equal(read_npz(path), export)
            except InputError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error)
    assert refused > len(whole) / 7  # most bytes matter


def test_a_header_that_hides_part_of_an_array_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    whole = path.read_bytes()
    assert whole.count(b"'<U8'") == 1  # numpy reads half of each name and never sees the end
    path.write_bytes(whole.replace(b"'<U8'", b"'<U4'"))
    with pytest.raises(InputError, match=r"checksum of class_names\.npy is wrong"):
        read_npz(path)


def test_a_changed_array_with_right_checksums_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    wrong: list[tuple[str, Any]] = []
    for name, array in arrays_of(make()).items():
        wrong += [(name, array[:-1]), (name, array[None]), (name, array.astype(np.float64))]
        if array.dtype == np.float32:
            wrong += [(name, np.where(array == array.flat[0], v, array)) for v in (np.nan, np.inf)]
    wrong += [
        ("hard_labels", np.full(6, 3, np.int32)),
        ("hard_labels", np.full(6, -1, np.int32)),
        ("channel_std", np.zeros(3, np.float32)),
        ("class_names", np.array(["a", "b"])),
        ("class_names", np.arange(3)),
        ("class_names", np.array([], np.str_)),
        ("images", np.zeros((0, 4, 4, 3), np.float32)),
        ("images", np.zeros((6, 4, 4, 2), np.float32)),
        ("images_uint8", np.zeros((6, 4, 4, 3), np.int8)),
    ]
    for name, array in wrong:
        write_npz(path, make())
        rewrite(path, **{name: array})
        with pytest.raises(InputError, match=r"a\.npz: array \w+ ") as caught:
            read_npz(path)
        if not name.startswith(("images", "class")):  # the others are measured against these
            assert f"array {name} " in str(caught.value)


@pytest.mark.parametrize("name", [*ARRAYS, "images_uint8", "class_names", "meta"])
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    rewrite(path, **{name: None})
    with pytest.raises(InputError, match=rf"a\.npz: no array {name}\b"):
        read_npz(path)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (np.array("{"), "not JSON"),
        (np.array("[]"), "format None"),
        (np.array(json.dumps({"format": "frepo_scale-distilled-9"})), "distilled-9'.*distilled-2"),
        (
            np.array(json.dumps({"format": FORMAT, "evaluation": {}, "provenance": {}})),
            "no results",
        ),
        (np.array(json.dumps({"format": FORMAT, "evaluation": {}})), "no provenance"),
        (np.array(json.dumps({"format": FORMAT, "provenance": {}})), "no evaluation"),
        (np.array([1, 2]), "no array meta"),
    ],
)
def test_other_kinds_and_versions_are_refused(
    tmp_path: Path, meta: np.ndarray, message: str
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    rewrite(path, meta=meta)
    with pytest.raises(InputError, match=message):
        read_npz(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    pickled = np.array([{}], dtype=object)
    np.savez(tmp_path / "pickle.npz", meta=pickled)
    for name, message in {
        "none.npz": "no such file",
        "text.npz": "damaged or not an .npz",
        "other.npz": "no array meta",
        "pickle.npz": "no array meta",
        "": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=message):
            read_npz(tmp_path / name)


def test_an_invalid_export_is_not_written(tmp_path: Path) -> None:
    export = make()
    images = export.images.copy()
    images[1, 2, 0, 0] = np.nan
    for write in (write_npz, write_folder):
        with pytest.raises(InputError, match="array images has NaN"):
            write(tmp_path / "a", dataclasses.replace(export, images=images))
        with pytest.raises(InputError, match="array labels is"):
            write(tmp_path / "a", dataclasses.replace(export, labels=export.labels[:, :2]))
        with pytest.raises(ValueError, match="JSON compliant"):
            write(tmp_path / "a", dataclasses.replace(export, evaluation={"x": float("nan")}))
        with pytest.raises(InputError, match=r"array images is \(0, 4, 4, 3\)"):
            write(tmp_path / "a", dataclasses.replace(export, images=images[:0]))
        with pytest.raises(InputError, match=r"array images is \(6, 4, 4, 2\)"):
            write(tmp_path / "a", make(channels=2))
        with pytest.raises(InputError, match="array class_names is"):
            write(tmp_path / "a", dataclasses.replace(export, class_names=()))
    assert os.listdir(tmp_path) == []


def test_npz_failing_in_the_middle_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, make())
    before = path.read_bytes()

    def half(file: BinaryIO, **arrays: np.ndarray) -> None:
        file.write(before[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(InputError, match="No space left"):
        write_npz(path, make(channels=1))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_holds_pixels_labels_and_description(tmp_path: Path, channels: int) -> None:
    export = make(channels)
    export.images[0] *= 3  # beyond the range of pixels
    write_folder(tmp_path / "set", export)
    folders = ["0_cat", "1_dog_wolf", "2_ça_va"]
    files = [*folders, "dataset.json", "labels.csv", "pixels.npz"]
    assert sorted(os.listdir(tmp_path / "set")) == files
    with open(tmp_path / "set" / "labels.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "hard_label", "soft_0", "soft_1", "soft_2"]
    assert [row[0] for row in rows] == [f"{f}/000{i}.png" for f in folders for i in range(2)]
    for row, pixels, hard, soft in zip(
        rows, export.to_pixels(), export.hard_labels, export.labels, strict=True
    ):
        with Image.open(tmp_path / "set" / row[0]) as image:
            assert image.mode == ("L" if channels == 1 else "RGB")
            stored = np.asarray(image).reshape(pixels.shape)
        np.testing.assert_array_equal(stored, pixels)
        assert int(row[1]) == hard
        np.testing.assert_array_equal(np.array(row[2:], np.float32), soft)  # to the last bit
    text = (tmp_path / "set" / "dataset.json").read_text(encoding="utf-8")
    about = json.loads(text)
    assert about["class_names"] == list(export.class_names) and "ça va" in text
    assert about["evaluation"] == export.evaluation
    assert about["provenance"] == export.provenance
    assert about["normalisation"]["whitened"] is (channels == 3)
    mean = np.array(about["normalisation"]["channel_mean"], np.float32)
    np.testing.assert_array_equal(mean, export.preprocessing.channel_mean)
    assert about["pixels"]["preview_only"] is True
    assert 0 < about["pixels"]["clipped_share"] < 0.5
    assert f"{100 * about['pixels']['clipped_share']:.2g} % of the values" in about["note"]
    with np.load(tmp_path / "set" / "pixels.npz") as npz:
        floats = npz["pixels"]
    assert floats.max() > 1.1  # not clipped
    again = export.preprocessing.apply(floats * 255)
    np.testing.assert_allclose(again, export.images, atol=1e-3)


def test_class_folders_stay_distinct_ordered_and_inside(tmp_path: Path) -> None:
    names = ("a/b", "a\\b", "..", "", "../x", "x" * 300, "\udcff", "日本", "a_b", "CON", "a b", "é")
    export = dataclasses.replace(
        make(channels=1, per_class=4),
        class_names=names,
        labels=np.zeros((12, 12), np.float32),
        hard_labels=np.arange(12, dtype=np.int32),
    )
    write_folder(tmp_path / "set", export)
    folders = sorted(p.name for p in (tmp_path / "set").iterdir() if p.is_dir())
    assert [int(name[:2]) for name in folders] == list(range(12))
    assert folders[:5] == ["00_a_b", "01_a_b", "02", "03", "04_x"]
    assert len(list((tmp_path / "set").rglob("*.png"))) == 12
    about = json.loads((tmp_path / "set" / "dataset.json").read_text(encoding="utf-8"))
    assert tuple(about["class_names"]) == names
    assert os.listdir(tmp_path) == ["set"]


def test_folder_failing_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = Image.Image.save, []

    def fails_at_the_third(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", fails_at_the_third)
    with pytest.raises(InputError, match="No space left"):
        write_folder(tmp_path / "set", make())
    assert os.listdir(tmp_path) == []


def test_folder_refuses_a_target_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="is a file"):
        write_folder(tmp_path / "file", make())
    write_folder(tmp_path / "set", make())
    with pytest.raises(InputError, match="is not empty"):
        write_folder(tmp_path / "set", make())
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["file", "set"]
