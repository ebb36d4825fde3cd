"""Versions and the fingerprint of the code."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from frepo_scale.core import versions
from frepo_scale.core.versions import code_fingerprint, made_by_newer, version, version_line

PACKAGE = Path(versions.__file__).parents[1]


def fingerprint_of(folder):
    program = "from frepo_scale.core.versions import code_fingerprint as f; print(f())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_fingerprint_is_of_the_code_alone(tmp_path):
    shutil.copytree(PACKAGE / "core", tmp_path / "frepo_scale/core")
    (tmp_path / "frepo_scale/__init__.py").write_text("")
    before = fingerprint_of(tmp_path)
    assert len(before) == 12 and before != code_fingerprint()
    (tmp_path / "frepo_scale/notes.txt").write_text("x")
    assert fingerprint_of(tmp_path) == before
    module = tmp_path / "frepo_scale/core/keys.py"
    module.write_text(module.read_text() + "# x\n")
    changed = fingerprint_of(tmp_path)
    assert changed != before
    module.rename(module.with_name("keys2.py"))
    assert fingerprint_of(tmp_path) not in (before, changed)


def test_the_line_names_what_computes():
    line = version_line()
    assert line.startswith(f"frepo-scale {version()}, code {code_fingerprint()}, python 3.")
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy"):
        assert f", {name} {importlib.metadata.version(name)}" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("own", "maker", "newer"),
    [
        *[("0.1.0", "0.1.1", True), ("0.1.0", "0.10", True), ("0.9.0", "1.0.0", True)],
        *[("0.1.0", "0.1.0", False), ("0.10.0", "0.9.9", False), ("0.1.0", "", False)],
        *[("unknown", "0.1.0", False), ("0.1.0", "0.2.dev1", False)],
    ],
)
def test_which_version_is_newer(own, maker, newer, monkeypatch):
    monkeypatch.setattr(versions, "version", lambda: own)
    assert made_by_newer(maker) is newer
