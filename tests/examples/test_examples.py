"""The examples, as far as they need no PyTorch."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import handover
import numpy as np
import pytest
from exported_digits import STRENGTHS, digits_export

from frepo_scale.data.types import Split
from frepo_scale.export.formats import read_npz, write_npz
from frepo_scale.jobs.protocol import architecture
from frepo_scale.models.registry import NetConfig

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
LONGEST = {"train_in_pytorch.py": 150, "train_in_jax.py": 60}


def test_the_examples_are_short_and_need_no_package_of_ours():
    for name, lines in LONGEST.items():
        text = (EXAMPLES / name).read_text()
        assert len(text.splitlines()) <= lines
        assert "import frepo_scale" not in text and "from frepo_scale" not in text


def test_a_recipe_holds_every_number_the_example_reads(tmp_path):
    digits_export(tmp_path / "e.npz")
    recipe = json.loads(dict(np.load(tmp_path / "e.npz"))["meta"].item())["evaluation"]
    assert recipe["architecture"]["layers"][0]["padding"] == 3
    assert recipe["warm_up_steps"] == 75 and recipe["test"]["images"] == 355
    assert set(recipe["augmentation"]["operations"]) == set(recipe["augmentation"]["operation"])
    assert set(recipe["augment"]) == set(STRENGTHS)


@pytest.mark.slow
def test_the_jax_example_gives_our_accuracy(tmp_path):
    pixels, labels = digits_export(tmp_path / "e.npz")
    np.savez(tmp_path / "test.npz", images=pixels, labels=labels)
    exported = read_npz(tmp_path / "e.npz")
    # Smaller than the set: shuffled epochs of two batches, and two images are left out.
    exported = replace(exported, evaluation=exported.evaluation | {"batch": 4})
    write_npz(tmp_path / "e.npz", exported)
    test = Split(exported.preprocessing.apply(pixels), labels)
    ours = handover.in_jax(exported, test, 8, augmented=False)
    command = [sys.executable, EXAMPLES / "train_in_jax.py", "e.npz", "test.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    accuracy, _, note = done.stdout.partition(" ")
    assert abs(float(accuracy) / 100 - np.mean(ours)) < 4 * np.std(ours, ddof=1)
    assert "without the augmentation" in note


def test_the_jax_example_without_files_says_what_it_takes(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_in_jax.py", "e.npz"])
    with pytest.raises(SystemExit, match=r"python train_in_jax.py distilled.npz test.npz"):
        runpy.run_path(str(EXAMPLES / "train_in_jax.py"))


def test_a_net_that_the_jax_example_does_not_build_is_one_line(tmp_path, monkeypatch):
    digits_export(tmp_path / "e.npz")
    exported = read_npz(tmp_path / "e.npz")
    np.savez(tmp_path / "test.npz", images=exported.to_pixels(), labels=np.arange(10))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_in_jax.py", "e.npz", "test.npz"])
    nets = {
        "instance norm": NetConfig(width=4, depth=2, norm="instance"),
        "max pool": NetConfig("alexnet", norm="none"),
        "not describe": NetConfig("frepo_scale.models.mlp.MLP", norm="none"),
    }
    for other, net in nets.items():
        recipe = exported.evaluation | {"architecture": architecture(net, 10, (8, 8, 1))}
        write_npz("e.npz", replace(exported, evaluation=recipe))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / "train_in_jax.py"))
        assert other in ended.value.code and "\n" not in ended.value.code
