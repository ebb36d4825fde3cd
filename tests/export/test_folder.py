"""The folder export: pictures, labels, float pixels and a description."""

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export.exports import make
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.export.folder import write_folder


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
