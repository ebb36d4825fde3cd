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


def program_in(folder, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_repository_and_of_code_without_one(tmp_path):
    program = (
        sys.executable,
        "-c",
        "from frepo_scale.core.versions import commit as f; print(f())",
    )
    shutil.copytree(PACKAGE / "core", tmp_path / "frepo_scale/core")
    (tmp_path / "frepo_scale/__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text("")
    assert program_in(tmp_path, *program) == ""
    (tmp_path / "COMMIT").write_text("0123456789ab\n")  # of a launcher
    assert program_in(tmp_path, *program) == "0123456789ab"
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "a")):
        program_in(tmp_path, *git, *words)
    head = program_in(tmp_path, "git", "rev-parse", "--short=12", "HEAD")
    assert len(head) == 12 and program_in(tmp_path, *program) == head
    (tmp_path / "pyproject.toml").write_text("# changed")
    assert program_in(tmp_path, *program) == f"{head}-dirty"


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
