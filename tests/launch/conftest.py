"""A copy of the repository's launch side whose .venv holds a fake program, so nothing installs."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from launch.tpu_cloud import Cloud

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def make_venv(venv: Path, pyproject: Path, program: Path = HERE / "fake_program.py") -> None:
    """A .venv that launch/python_env.sh accepts as complete; `program` is its frepo-scale.

    To drive the real program, use a real environment with the same stamps.
    """
    write_program(venv / "bin" / "python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    write_program(
        venv / "bin" / "frepo-scale", f'#!/bin/sh\nexec "{sys.executable}" -S "{program}" "$@"\n'
    )
    digest = hashlib.sha256(pyproject.read_bytes()).hexdigest()
    for kind in ("base", "dev", "tpu"):
        (venv / f"installed-{kind}").write_text(f"{digest} {pyproject}\n")


def wait_for(condition, seconds: float = 120):
    """Waits until `condition` returns a true value, and returns it."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return result


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"Result({self.code}, {self.out!r}, {self.err!r})"


class Bench:
    """The copied repository, a current folder, and fake programs first on PATH."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.repo, self.bin, self.cwd = top / "a repo", top / "bin", top / "stands here"
        for folder in (self.bin, self.cwd, self.repo / "gin", self.repo / "frepo_scale"):
            folder.mkdir(parents=True)
        shutil.copytree(REPO / "launch", self.repo / "launch")
        (self.repo / "pyproject.toml").write_text("[project]\n")
        (self.repo / "README.md").write_text("a readme\n")
        (self.repo / "gin" / "digits_ipc1.gin").write_text("# a recipe\n")
        make_venv(self.repo / ".venv", self.repo / "pyproject.toml")
        self.program = self.repo / ".venv" / "bin" / "frepo-scale"
        self.workdir = top / "work dir"
        self.environment = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        for name in list(self.environment):
            if name.startswith(("FREPO_", "SLURM_", "TPU_", "CUDA_", "JAX_")):
                del self.environment[name]
        self.started: list[subprocess.Popen[str]] = []

    def fake(self, name: str, text: str) -> None:
        write_program(self.bin / name, text)

    def start(self, script: str, *args: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", str(self.repo / "launch" / script), *args],
            cwd=self.cwd,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, script: str, *args: str, seconds: float = 240, **environment: str) -> Result:
        process = self.start(script, *args, **environment)
        return self.end(process, seconds)

    def end(self, process: subprocess.Popen[str], seconds: float = 240) -> Result:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"still running after {seconds} s:\n{out}\n{err}")
        return Result(process.returncode, out, err)

    def interrupt(self, process: subprocess.Popen[str], seconds: float = 60) -> None:
        """Ctrl-C until the script ends, as a person would; for scripts that ignore a second one.

        bash loses a SIGINT that arrives during some command substitutions: it takes it for the
        child's, and the child ends as usual.
        """
        deadline = time.monotonic() + seconds
        while process.poll() is None:
            assert time.monotonic() < deadline, "it ignores Ctrl-C"
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)

    def calls(self, process: int = 0, workdir: Path | None = None) -> list[dict]:
        """How the fake program was called as that process, in order."""
        file = (workdir or self.workdir) / f"called-{process}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def pids(self) -> list[int]:
        """Process IDs of every fake program that this bench started."""
        files = self.top.rglob("called-*.jsonl")
        return [json.loads(x)["pid"] for file in files for x in file.read_text().splitlines()]

    def steps(self, workdir: Path | None = None) -> list[int]:
        folder = (workdir or self.workdir) / "checkpoints"
        return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for pid in self.pids():
            if alive(pid):
                os.kill(pid, 9)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def helpers():
    """The functions above, for tests that need them."""
    return HELPERS


@pytest.fixture(scope="module")
def make_bench(tmp_path_factory):
    """Makes benches that last as long as the module's tests."""
    made: list[Bench] = []

    def make(name: str) -> Bench:
        made.append(Bench(tmp_path_factory.mktemp(name)))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


HELPERS = SimpleNamespace(
    wait_for=wait_for, alive=alive, write_program=write_program, make_venv=make_venv, here=HERE
)

# Arguments that must arrive at the program unchanged.
NASTY = [
    "",
    "two words",
    "it's",
    'say "hi"',
    "$(touch /tmp/should-not-be-there)",
    "`id`",
    "a\nb\n",
    "\n",
    "*",
    "~",
    "-",
    "--",
    "--workdir-like",
    "-n",
    "back\\slash \\n",
    "$HOME ${PATH}",
    "; exit 9 #",
    "!history",
    "tab\tand\rreturn",
    "grüße 日本",
    "{a,b}",
    "%s %d",
    "'",
    '"',
    "a=b c",
    "&& false || true",
]


@pytest.fixture
def nasty() -> list[str]:
    return NASTY


@pytest.fixture
def cloud(bench, helpers):
    made = Cloud(bench, helpers.here, helpers)
    yield made
    for file in made.top.glob("vms/*/*/frepo_scale/run/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
