import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from export.exports import assert_equal, make
from PIL import Image

from frepo_scale.core.errors import InputError
from frepo_scale.export.safetensors_folder import read_safetensors, write_safetensors

ROWS = [
    {"key": "distilled", "label": "distilled set", "mean": 0.875, "std": 0.01, "n": 5},
    {"key": "random_real", "label": "random real images", "mean": 0.5, "std": 0.02, "n": 5},
]
RESULTS = {
    "selected_by": "held-out",
    "evaluations": [{"name": "accuracy", "title": "test accuracy", "rows": ROWS}],
    "distilled": {"mean": 0.875, "std": 0.01, "n": 5},
}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_folder_gives_back_what_was_written(tmp_path: Path, channels: int) -> None:
    export = replace(make(channels), results=RESULTS)
    write_safetensors(tmp_path / "set", export)
    assert_equal(read_safetensors(tmp_path / "set"), export)
    assert (tmp_path / "set" / "whitening.safetensors").exists() == (channels == 3)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "set").iterdir() if path.is_file()}
    assert len(modes) == 1  # the usual permissions, for all of them


def test_previews_have_the_layout_of_imagefolder(tmp_path: Path) -> None:
    export = make()
    write_safetensors(tmp_path / "set", export)
    previews = tmp_path / "set" / "previews"
    rows = [json.loads(line) for line in (previews / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == len(list(previews.rglob("*.png"))) == 6
    for row, pixels, label, learned in zip(
        rows, export.to_pixels(), export.hard_labels, export.labels, strict=True
    ):
        with Image.open(previews / row["file_name"]) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
        assert (row["label"], row["class_name"]) == (label, export.class_names[label])
        np.testing.assert_array_equal(np.array(row["soft_labels"], "f4"), learned)  # to the bit


def test_the_card_has_numbers_protocol_and_gaps_for_the_user(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", replace(make(), results=RESULTS))
    text = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert "license: unknown" in head and "data_dir: previews" in head
    assert """          '1': "dog/wolf"\n          '2': "\\u00e7a va"\n""" in head
    assert "| distilled set | 87.5 ± 1.0 % |" in body
    assert "net convnet, steps 1000" in body and "held-out" in body
    for part in ("gallery.png", "@inproceedings{zhou2022dataset", "Fill in: the licence"):
        assert part in body
    assert (tmp_path / "a" / "gallery.png").read_bytes().startswith(b"\x89PNG")
    table = {"name": "x", "title": "nets", "rows": [ROWS[0] | {"row": "mlp", "column": "ours"}]}
    results = RESULTS | {"evaluations": [table]}
    write_safetensors(tmp_path / "c", replace(make(), results=results))
    two_axes = "|  | ours |\n|---|---|\n| mlp | 87.5 ± 1.0 % |\n"
    assert two_axes in (tmp_path / "c" / "README.md").read_text(encoding="utf-8")
    write_safetensors(tmp_path / "b", replace(make(), results={}))
    assert "Not evaluated." in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")


def test_any_class_name_is_in_the_head_as_it_is(tmp_path: Path) -> None:
    names = ("\U0001f40b whale", 'a: "b" \\ #c', "-")
    write_safetensors(tmp_path / "a", replace(make(), class_names=names))
    text = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0])
    features = {feature["name"]: feature for feature in head["configs"][0]["features"]}
    assert tuple(features["label"]["dtype"]["class_label"]["names"].values()) == names


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "set", make())
    folder = tmp_path / "set"
    for name in ("config.json", "images.safetensors", "whitening.safetensors"):
        whole = (folder / name).read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"x" + whole[1:]):
            (folder / name).write_bytes(content)
            with pytest.raises(InputError) as caught:
                read_safetensors(folder)
            assert "set" in caught.value.what and "\n" not in str(caught.value)
        (folder / name).write_bytes(whole)
    about = json.loads((folder / "config.json").read_text())
    for names in (None, ["a"], [1, 2, 3]):
        (folder / "config.json").write_text(json.dumps(about | {"class_names": names}))
        with pytest.raises(InputError, match=r"class_names|labels"):
            read_safetensors(folder)
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "images.safetensors").unlink()
    with pytest.raises(InputError, match=r"images\.safetensors"):
        read_safetensors(folder)


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    wrong = {"distilled": {"mean": "0.9", "std": 0.1, "n": 3}}
    with pytest.raises(InputError, match="mean"):
        write_safetensors(tmp_path / "set", replace(make(), results=wrong))
    assert not (tmp_path / "set").exists()


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError) as caught:
        write_safetensors(tmp_path / "set", make())
    assert caught.value.fix.endswith("-m pip install 'frepo-scale[safetensors]'")
    assert not (tmp_path / "set").exists()


def test_a_set_of_some_classes_shows_these(tmp_path: Path) -> None:
    """With `CLASSES` the labels are over all classes, and some have no images."""
    export = make()
    there = export.hard_labels != 1
    some = replace(
        export,
        images=export.images[there],
        labels=export.labels[there],
        hard_labels=export.hard_labels[there],
    )
    assert len(some.present_names) == len(export.class_names) - 1
    write_safetensors(tmp_path / "set", some)
    each = len(some.images) // len(some.present_names)
    text = (tmp_path / "set" / "README.md").read_text()
    assert f"{each} for each of {len(some.present_names)} classes" in text
