"""requirements/*.txt hold what pyproject.toml asks for: a change of it needs new locks."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def wanted(extras):
    """The requirements of the package with these extras, those of the package itself resolved."""
    texts = [*PROJECT["dependencies"]]
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            yield from wanted(requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("kind", ["base", "gpu", "tpu"])
def test_each_requirement_is_locked_in_an_allowed_version_with_hashes(kind):
    text = (REPO / "requirements" / f"{kind}.txt").read_text()
    locked = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        locked.setdefault(canonicalize_name(name), []).append(version)
    for requirement in wanted({"tpu"} if kind == "tpu" else {"gs"}):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement} is not in requirements/{kind}.txt: see its first lines"
        assert all(requirement.specifier.contains(v) for v in versions), (requirement, versions)
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.partition("\nabsl")[2])
    assert len(entries) > 50 and all("--hash=sha256:" in entry for entry in entries)
    hardware = {"gpu": "jax-cuda13-plugin", "tpu": "libtpu"}
    assert {k for k, name in hardware.items() if name in locked} == {kind} - {"base"}
