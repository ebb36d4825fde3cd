"""A user's source class, from the how-to page, in a recipe and in prepare."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.records import PreparedSet
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.sources.registry import list_source
from frepo_scale.data.types import everything
from frepo_scale.main import main
from frepo_scale.ops.preemption import Preempted

PAGE = Path(__file__).resolve().parents[3] / "docs/how-to/data-source.md"
CLASS = "csv_source.CsvImages"
SETTING = "DATA_SOURCE"


@pytest.fixture
def photos(tmp_path, images, monkeypatch):
    """The code of the page as a module, and a folder that it reads."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 40
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "csv_source.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "csv_source", raising=False)
    table = ["split,class,file"]
    for number in range(24):
        part, name = ("train", "test")[number % 4 == 3], "ab"[number % 2]
        images.write(tmp_path / "photos", {f"{number}.png": images.encoded(number, "PNG", (8, 8))})
        table.append(f"{part},{name},{number}.png")
    table += [f"test,{'ab'[n]},{n}.png" for n in range(2)]
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(table) + "\n")
    return tmp_path / "photos"


def sorted_rows(part):
    rows = np.column_stack([part.labels, everything(part).reshape(len(part), -1)])
    return rows[np.lexsort(rows.T)]


def test_it_works_from_a_recipe_and_in_prepare(photos, tmp_path, capsys):
    given = ["--gin.DATASET=folder", f"--gin.DATA_DIR={photos}", "--gin.BATCH=4"]
    command = ["distill", "digits_ipc1", "--dry-run", "--workdir", str(tmp_path / "w"), *given]
    command += [f"--gin.{SETTING}={CLASS}"]
    assert main(command) == 0
    assert "18 target, 0 held-out, 8 test images of (8, 8, 3), 2 classes" in capsys.readouterr().out
    own = load_dataset(DataConfig("folder", str(photos), batch=4, images=CLASS))
    assert own.class_names == ("a", "b")
    out = tmp_path / "records"
    command = ["prepare", "--source", str(photos), "--source-class", CLASS, "--workers", "1"]
    assert main([*command, "--out", str(out), "--resolution", "8"]) == 0
    prepared = load_dataset(DataConfig("folder", str(out), batch=4))
    for part in ("train", "test"):
        one, other = (sorted_rows(getattr(found, part)) for found in (own, prepared))
        np.testing.assert_array_equal(one, other)
    assert len(PreparedSet.open(out, verify=True).train) == 18


BAD = {
    "gone.Source": None,
    "bad.Missing": "",
    "bad.Empty": "class Empty:\n    pass\n",
    "bad.Other": "class Other:\n    def matches(self, path): return False\n    listing = matches\n",
    "bad.Fails": "class Fails:\n    def matches(self, path): return 1 / 0\n    listing = matches\n",
    "bad.Wrong": "class Wrong:\n    def matches(self, path): return True\n"
    "    def listing(self, path, poll): return 5\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_class_that_does_not_work(name, photos, monkeypatch):
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    if BAD[name] is not None:
        (photos.parent / "code" / "bad.py").write_text(BAD[name])
    for read in (
        lambda: list_source(photos, source_class=name),
        lambda: load_dataset(DataConfig("folder", str(photos), batch=4, images=name)),
    ):
        with pytest.raises(InputError) as caught:
            read()
        assert name.rpartition(".")[2] in caught.value.what


def test_its_own_errors_and_stops_pass(photos):
    def stop():
        raise Preempted

    with pytest.raises(Preempted):
        list_source(photos, stop, CLASS)
    (photos / "3.png").unlink()
    with pytest.raises(InputError) as caught:
        list_source(photos, source_class=CLASS)
    assert str(photos / "3.png") in caught.value.what


def test_it_needs_a_path(photos):
    with pytest.raises(InputError) as caught:
        load_dataset(DataConfig("mnist", None, batch=4, images=CLASS))
    assert "DATA_DIR" in caught.value.fix
