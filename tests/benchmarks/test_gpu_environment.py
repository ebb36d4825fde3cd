"""gpu_check with only the packages of a GPU machine and those of gpu_check.sh.

Installing JAX anew would take minutes. Instead a virtual environment gets links to those
distributions of this one that are on the GPU machine too (gpu_machine_packages.txt), so that
nothing else can be imported: no TensorFlow, no Grain. What is missing has to come from the folder
that gpu_check.sh makes, with wheels for the Python that runs the tests.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "benchmarks"
SCRIPT = PARTS / "gpu_check.sh"
THERE = Path(__file__).with_name("gpu_machine_packages.txt").read_text().split()


def linked_environment(folder):
    """A Python that sees the standard library and the distributions of the GPU machine."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    linked = set()
    for found in importlib.metadata.distributions():
        name = re.sub("[-_.]+", "-", found.metadata["Name"]).lower()
        if name not in THERE:
            continue
        linked.add(name)
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            source, link = Path(found.locate_file(top)), site / top
            if source.exists() and not link.is_symlink():
                link.symlink_to(source)
    assert {"jax", "jaxlib", "flax", "orbax-checkpoint", "pytest"} <= linked
    return folder / "bin" / "python"


def prepared(folder, **environment):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    out = os.path.relpath(folder, ROOT)
    ended = subprocess.run(
        ["bash", str(SCRIPT), "--out", out, "--python-version", version],
        cwd=ROOT, env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_check_runs_with_what_the_machine_has_and_the_wheels(tmp_path):
    said = prepared(tmp_path / "bring")
    commands = [line for line in said.splitlines() if "gpu_check.py" in line]
    assert len(commands) == 1 and len(commands[0]) <= 2000
    python = linked_environment(tmp_path / "there")
    wheels = sorted((tmp_path / "bring" / "wheels").glob("*.whl"))
    # As the printed command does, with the pip of this machine.
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
         "--target", site, *wheels],
        check=True,
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}
    absent = "import importlib.util; print(importlib.util.find_spec('tensorflow'))"
    found = subprocess.run(
        [python, "-c", absent], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "None"

    # Everything that the parts import, then one part, then the real program.
    parts = ", ".join(
        f"gpu_parts.{part}" for part in ("facts", "right", "nothing_lost", "fast", "useful")
    )
    subprocess.run(
        [python, "-c", f"import {parts}"],
        env=environment | {"PYTHONPATH": os.pathsep.join(map(str, (PARTS, ROOT, site)))},
        check=True,
    )  # fmt: skip
    out = tmp_path / "out"
    subprocess.run(
        [python, PARTS / "gpu_check.py", "--smoke", "--minutes", "60",
         "--out", out, "--parts", "facts"],
        env=environment, check=True,
    )  # fmt: skip
    assert json.loads((out / "facts.json").read_text())["status"] == "done"
    workdir = tmp_path / "run"
    settings = {
        "STEPS": 2, "PROBE_NETS": 1, "PROBE_STEPS": 2, "EVAL_NETS": 1, "EVAL_STEPS": 2,
        "FULL_DATA": False, "WIDTH": 4, "BATCH": 16, "PROFILE_AT": 0,
    }  # fmt: skip
    overrides = [f"--gin.{name}={value}" for name, value in settings.items()]
    subprocess.run(
        [python, "-m", "frepo_scale.main", "distill", "digits_ipc1.gin",
         "--workdir", workdir, *overrides],
        env=environment, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert json.loads((workdir / "result.json").read_text())["steps"] == 2
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fashion-mnist", "nowhere"], "nowhere"),
        (["--cifar10", "missing.tar"], "missing.tar"),
        (["--out", "/tmp/elsewhere"], "/tmp/elsewhere"),
        (["--colour", "red"], "--colour"),
        (["--out"], "--out"),
    ],
)
def test_wrong_arguments_end_before_anything_is_fetched(tmp_path, arguments, named):
    ended = subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHON": "false"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2 and named in ended.stderr
    assert len(ended.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    ended = subprocess.run(
        ["bash", str(SCRIPT), "--out", os.path.relpath(tmp_path, ROOT)],
        env=os.environ | {"PYTHON": "false"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2 and tmp_path.name in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_help_needs_nothing(tmp_path):
    ended = subprocess.run(
        ["bash", str(SCRIPT), "--help"],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0 and ended.stdout.startswith("usage: benchmarks/gpu_check.sh")


def fake_downloads(folder, size):
    """A Python whose pip writes a file of that many bytes into the folder of the wheels."""
    fake = folder / "python"
    fake.write_text(
        "#!/usr/bin/env bash\n"
        "while (($#)); do [[ $1 == -d || $1 == -w ]] && target=$2; shift; done\n"
        f'truncate -s {size} "$target/a.whl"\n'
    )
    fake.chmod(0o755)
    return str(fake)


@pytest.mark.parametrize(("megabytes", "code"), [(1, 0), (61, 2)])
def test_the_folder_is_at_most_60_mib(tmp_path, megabytes, code):
    data, out = tmp_path / "data", tmp_path / "bring"
    data.mkdir()
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in names:
        (data / f"{name}-ubyte.gz").write_bytes(b"x")
    tar = tmp_path / "images.tar.gz"
    tar.write_bytes(b"x")
    ended = subprocess.run(
        ["bash", str(SCRIPT), "--fashion-mnist", "data", "--cifar10", "images.tar.gz",
         "--out", os.path.relpath(out, ROOT)],
        cwd=tmp_path, env=os.environ | {"PYTHON": fake_downloads(tmp_path, megabytes << 20)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    if code:
        assert "60 MiB" in ended.stderr and not ended.stdout
        return
    commands = [line for line in ended.stdout.splitlines() if "gpu_check.py" in line]
    assert ["fashion_mnist_ipc10.gin" in c for c in commands] == [True, False]
    assert ["images.tar.gz" in c for c in commands] == [False, True]
    assert all(len(command) <= 2000 for command in commands)
    assert {path.name for path in (out / "fashion-mnist").iterdir()} == {
        f"{name}-ubyte.gz" for name in names
    }
