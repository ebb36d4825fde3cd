"""The examples of README.md and docs/how-to that train on a distilled set are run as they stand.

A block is run if the line before it is `<!-- test: jax -->` or `<!-- test: torch -->`.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from frepo_scale.data.whitening import fit_preprocessing
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.export.formats import Export, write_npz

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- test: (jax|torch) -->\n```python\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(kind, text, id=f"{path.stem}-{kind}")
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/how-to/*.md")))
    for kind, text in BLOCK.findall(path.read_text(encoding="utf-8"))
]


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Real digits (n, 8, 8, 1) uint8 with labels; distilled.npz holds one of each class."""
    bunch = load_digits()
    pixels = np.round(bunch.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int32)
    first = np.array([np.flatnonzero(labels == k)[0] for k in range(10)])
    preprocessing = fit_preprocessing(pixels, whiten=False)
    monkeypatch.chdir(tmp_path)
    export = Export(
        images=preprocessing.apply(pixels[first]),
        labels=scaled_labels(labels[first], 10),
        hard_labels=labels[first],
        class_names=tuple("0123456789"),
        preprocessing=preprocessing,
        evaluation={},
        provenance={},
    )
    write_npz("distilled.npz", export)
    return pixels[100:], labels[100:]


def test_there_is_an_example_for_each():
    assert {example.values[0] for example in EXAMPLES} == {"jax", "torch"}


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_the_example_trains_a_net(kind, text, digits):
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    photos, labels = digits
    names = {"photos": photos}
    exec(compile(text, f"<{kind} example>", "exec"), names)
    accuracy = np.mean(np.asarray(names["classes"]) == labels)
    assert accuracy > 0.4  # guessing gives 0.1; both give 0.55 with these ten real digits
