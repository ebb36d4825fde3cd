"""The examples, as far as they need no PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import handover
import numpy as np
import pytest
from exported_digits import STRENGTHS, digits_export

from frepo_scale.data.types import Split
from frepo_scale.export.formats import read_npz

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
    assert recipe["architecture"]["blocks"][0]["padding"] == 3
    assert recipe["warm_up_steps"] == 75 and recipe["test"]["images"] == 355
    assert set(recipe["augmentation"]["operations"]) == set(recipe["augmentation"]["operation"])
    assert set(recipe["augment"]) == set(STRENGTHS)


@pytest.mark.slow
def test_the_jax_example_gives_our_accuracy(tmp_path):
    pixels, labels = digits_export(tmp_path / "e.npz")
    np.savez(tmp_path / "test.npz", images=pixels, labels=labels)
    exported = read_npz(tmp_path / "e.npz")
    test = Split(exported.preprocessing.apply(pixels), labels)
    ours = handover.in_jax(exported, test, 8, augmented=False)
    command = [sys.executable, EXAMPLES / "train_in_jax.py", "e.npz", "test.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    accuracy = float(done.stdout.split()[0]) / 100
    assert abs(accuracy - np.mean(ours)) < 4 * np.std(ours, ddof=1)
