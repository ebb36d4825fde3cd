"""The launch scripts' logic, with fake Pythons on PATH: nothing real is installed.

A fake answers the scripts' questions (version, venv module), makes a fake .venv, and "installs" a
frepo-scale that prints how it was called. The repository and every argument contain spaces.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SET = ["1", "glibc.malloc.hugetlb=1", "2"]  # what the scripts have in the environment
TOOLS = ["bash", "dirname", "mkdir", "rm", "find", "cat", "chmod", "sleep", "env", "flock"]

FAKE = r"""#!/usr/bin/env bash
# version=@VERSION@ bare=@BARE@
log() { printf '%s|' "${0##*/}" "$@" >>"$LOG"; printf '\n' >>"$LOG"; }
program() {
  printf '#!/usr/bin/env bash\n' >"$1/frepo-scale"
  printf 'printf "<%%s>" "$PWD" "$OPENBLAS_NUM_THREADS" "$GLIBC_TUNABLES" \\\n' >>"$1/frepo-scale"
  printf '  "$TF_CPP_MIN_LOG_LEVEL" "$@"; exit 7\n' >>"$1/frepo-scale"
  chmod +x "$1/frepo-scale"
}
case "$*" in
  "-I -c "*version_info*) [[ -n "@VERSION@" ]] && printf '%s\n' "@VERSION@" ;;
  "-I -c "*ensurepip*) [[ -z "@BARE@" ]] && printf '%s\n' "$0" ;;
  "-I -c import pip") exit 0 ;;
  "-I -c import torch") [[ -n ${TORCH:-} ]] ;;
  "-I -c "*) exec "$REAL_PYTHON" "$@" ;;
  "-I -m venv "*)
    log "$@"
    mkdir -p "$4/bin"
    cat "$0" >"$4/bin/python"
    chmod +x "$4/bin/python"
    if [[ -n ${DIE_IN_VENV:-} ]]; then exit 9; fi ;;
  "-I -m pip install "*)
    log "$@"
    until [[ -z ${INSTALL_UNTIL:-} || -e $INSTALL_UNTIL ]]; do sleep 0.05; done
    echo from pip
    if [[ -n ${DIE_IN_PIP:-} ]]; then exit 2; fi
    program "${0%/*}"
    printf '#!/usr/bin/env bash\nprintf "%%s|" shellcheck "$@" >>"$LOG"\n' >"${0%/*}/shellcheck"
    printf '[[ ${FAIL:-} != shellcheck ]] || exit 5\n' >>"${0%/*}/shellcheck"
    chmod +x "${0%/*}/shellcheck" ;;
  "-m "*)
    log "$@"
    if [[ -n ${FAIL:-} && "$*" == *"$FAIL"* ]]; then exit 5; fi
    if [[ $2 == pytest ]]; then echo "3 passed in 0.1s"; fi ;;
  *) log unexpected "$@"; exit 99 ;;
esac
"""


class Machine:
    """A copy of the launch scripts, and a PATH with only the programs of the test."""

    def __init__(self, top: Path) -> None:
        self.repo, self.bin, self.cwd = top / "a repo", top / "bin", top / "elsewhere, too"
        for folder in (self.repo / ".ci", self.bin, self.cwd):
            folder.mkdir(parents=True)
        shutil.copytree(REPO / "launch", self.repo / "launch")
        shutil.copy(REPO / ".ci" / "run", self.repo / ".ci" / "run")
        (self.repo / "pyproject.toml").write_text("[project]\n")
        self.venv, self.log = self.repo / ".venv", top / "log"
        for tool in TOOLS:
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        self.environment = {
            "PATH": str(self.bin),
            "LOG": str(self.log),
            "REAL_PYTHON": sys.executable,
            "HOME": str(top),
        }

    def python(
        self, name: str, version: str, bare: bool = False, folder: Path | None = None
    ) -> str:
        path = (folder or self.bin) / name
        path.write_text(FAKE.replace("@VERSION@", version).replace("@BARE@", "yes" * bare))
        path.chmod(0o755)
        return str(path)

    def start(self, script: str, *args: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.repo / script), *args],
            cwd=self.cwd,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a test can kill it with all it started
        )

    def run(self, *args: str, script: str = "launch/local.sh", **environment: str) -> "Result":
        process = self.start(script, *args, **environment)
        out, err = process.communicate(timeout=60)
        return Result(process.returncode, out, err)

    def logged(self, words: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if words in line]

    @property
    def installs(self) -> int:
        return len(self.logged("|pip|install|"))

    @property
    def venvs(self) -> int:
        return len(self.logged("|venv|"))


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"Result({self.code}, {self.out!r}, {self.err!r})"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_first_start_makes_installs_and_runs_in_the_callers_folder(machine: Machine) -> None:
    machine.python("python3", "3.12")
    result = machine.run("my recipe.gin", "--gin.STEPS=3", "two words", "", "$HOME *")
    assert result.code == 7, result  # the program's own status
    arguments = ["distill", "my recipe.gin", "--gin.STEPS=3", "two words", "", "$HOME *"]
    assert result.out == "".join(f"<{a}>" for a in [machine.cwd, *SET, *arguments])
    assert "a minute or two" in result.err and "from pip" in result.err
    assert machine.venvs == machine.installs == 1
    assert machine.logged("|pip|install|")[0].endswith("|-e|.|")


def test_second_start_installs_nothing_and_says_nothing(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    result = machine.run()
    assert result.err == "" and "<distill><digits_ipc1.gin>" in result.out
    assert machine.venvs == machine.installs == 1
    assert not list(machine.cwd.iterdir())


def test_options_alone_go_to_the_default_recipe(machine: Machine) -> None:
    machine.python("python3", "3.12")
    assert machine.run("--gin.SEED=1").out.endswith("<distill><digits_ipc1.gin><--gin.SEED=1>")
    assert machine.run("", "x").out.endswith("<distill><digits_ipc1.gin><x>")


def test_settings_of_the_caller_take_precedence(machine: Machine) -> None:
    machine.python("python3", "3.12")
    own = {
        "OPENBLAS_NUM_THREADS": "4",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
        "TF_CPP_MIN_LOG_LEVEL": "0",
    }
    assert "<4><glibc.malloc.hugetlb=0><0><distill>" in machine.run(**own).out


@pytest.mark.parametrize("script", ["launch/local.sh", "launch/test.sh"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_needs_no_python(machine: Machine, script: str, option: str) -> None:
    result = machine.run(option, script=script)
    assert result.code == 0 and result.out.startswith(f"usage: {script}"), result
    assert not machine.venv.exists()


def files(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("there", ["nothing", "a broken .venv", "an older installation"])
def test_dry_run_prints_the_first_start_and_changes_nothing(machine: Machine, there: str) -> None:
    python = machine.python("python3", "3.12")
    if there == "a broken .venv":
        (machine.venv / "leftover").mkdir(parents=True)
    elif there == "an older installation":
        machine.run()
        (machine.repo / "pyproject.toml").write_text("[project]\nname = 'new'\n")
    before, made, installs = files(machine.repo), machine.venvs, machine.installs
    arguments = ["my recipe.gin", "--gin.STEPS=3", "it's $HOME *", ""]
    result = machine.run(*arguments[:2], "--dry-run", *arguments[2:])
    assert result.code == 0 and result.err == "", result
    assert files(machine.repo) == before
    assert (machine.venvs, machine.installs) == (made, installs)
    lines = result.out.splitlines()
    assert [x.startswith(f"{python} -I -m venv ") for x in lines[:-2]][-1:] == [True][made:]
    assert len(lines) == {"nothing": 3, "a broken .venv": 4}.get(there, 2)
    pasted = subprocess.run(
        ["bash", "-c", result.out],
        cwd=machine.cwd, env=machine.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert pasted.returncode == 7, pasted
    words = [machine.cwd, *SET, "distill", *arguments]
    assert pasted.stdout.endswith("".join(f"<{word}>" for word in words))
    assert machine.venvs == 1 and machine.installs == installs + 1
    assert not (machine.venv / "leftover").exists()


def test_dry_run_is_the_programs_where_it_is_installed(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    result = machine.run("--dry-run")
    assert result.code == 7 and result.out.endswith("<distill><digits_ipc1.gin><--dry-run>"), result


def test_dry_run_without_a_python_is_one_line(machine: Machine) -> None:
    result = machine.run("--dry-run")
    assert result.code == 2 and result.err.count("\n") == 1 and not machine.venv.exists(), result


def test_a_change_of_pyproject_installs_again(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    (machine.repo / "pyproject.toml").write_text("[project]\nname = 'new'\n")
    machine.run()
    machine.run()
    assert machine.installs == 2 and machine.venvs == 1


def test_a_moved_repository_installs_again(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    machine.repo = machine.repo.rename(machine.repo.with_name("b repo"))
    assert machine.run().code == 7
    assert machine.installs == 2


def test_a_failed_installation_is_done_again(machine: Machine) -> None:
    machine.python("python3", "3.12")
    result = machine.run(DIE_IN_PIP="yes")
    assert result.code == 1 and "the installation failed" in result.err
    assert machine.run().code == 7
    assert machine.installs == 2 and machine.venvs == 1


def test_a_killed_installation_is_done_again(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    (machine.repo / "pyproject.toml").write_text("[project]\nname = 'new'\n")
    process = machine.start("launch/local.sh", INSTALL_UNTIL="/never")
    while machine.installs < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    # The old pyproject.toml again: the files of the killed installation are not used for it either.
    (machine.repo / "pyproject.toml").write_text("[project]\n")
    assert machine.run().code == 7
    assert machine.installs == 3


def test_an_interrupted_venv_is_made_again(machine: Machine) -> None:
    machine.python("python3", "3.12")
    assert machine.run(DIE_IN_VENV="yes").code == 9
    assert (machine.venv / "bin" / "python").exists() and machine.installs == 0
    assert machine.run().code == 7
    assert machine.venvs == 2


@pytest.mark.parametrize("damage", ["python gone", "python too old", "empty"])
def test_a_broken_venv_is_made_again(machine: Machine, damage: str) -> None:
    machine.python("python3", "3.12")
    machine.run()
    (machine.venv / "leftover").touch()
    if damage == "python gone":
        (machine.venv / "bin" / "python").unlink()
    elif damage == "python too old":
        machine.python("python", "3.10", folder=machine.venv / "bin")
    else:
        shutil.rmtree(machine.venv)
        machine.venv.mkdir()
    assert machine.run().code == 7
    assert machine.venvs == machine.installs == 2
    assert not (machine.venv / "leftover").exists()


def test_an_uninstalled_program_is_installed_again(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    (machine.venv / "bin" / "frepo-scale").unlink()
    assert machine.run().code == 7
    assert machine.installs == 2 and machine.venvs == 1


def test_the_first_usable_python_is_taken(machine: Machine) -> None:
    machine.python("python3.13", "")  # a shim of a version that is not installed
    machine.python("python3.12", "3.12", bare=True)
    machine.python("python3.11", "3.11")
    machine.python("python3", "3.14")
    assert machine.run().code == 7
    assert machine.logged("|venv|")[0].startswith("python3.11|")


def test_python_variable_comes_first(machine: Machine, tmp_path: Path) -> None:
    machine.python("python3.13", "3.13")
    chosen = machine.python("my python", "3.11", folder=tmp_path)
    assert machine.run(PYTHON=chosen).code == 7
    assert machine.logged("|venv|")[0].startswith("my python|")


def test_an_unusable_python_variable_is_named(machine: Machine) -> None:
    machine.python("python3.13", "3.13")
    result = machine.run(PYTHON="/no/such python")
    assert result.code == 7 and "PYTHON=/no/such python" in result.err


@pytest.mark.parametrize(
    ("pythons", "words"),
    [
        ([], ["3.11, 3.12 or 3.13, found none", "install"]),
        ([("python3", "3.14")], ["3.11, 3.12 or 3.13, found 3.14: install"]),
        ([("python3", "3.9"), ("python3.13", "")], ["found 3.9: install"]),
        ([("python3", "3.11", True)], ["3.11 without its venv", "apt-get install python3.11-venv"]),
        ([("python3.12", "3.12", True), ("python3", "3.14")], ["python3.12-venv"]),
    ],
)
def test_no_usable_python_is_one_line_and_leaves_nothing(
    machine: Machine, pythons: list[tuple], words: list[str]
) -> None:
    for python in pythons:
        machine.python(*python)
    result = machine.run(PYTHON="nowhere")
    assert result.code == 2 and result.out == ""
    assert result.err.count("\n") == 1 and all(word in result.err for word in words), result
    assert not machine.venv.exists()


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_simultaneous_starts_install_once(machine: Machine) -> None:
    machine.python("python3", "3.12")
    may_end = machine.cwd / "may end"
    started = [machine.start("launch/local.sh", INSTALL_UNTIL=str(may_end)) for _ in range(3)]
    # Each says that it installs, or that it waits.
    errors = [process.stderr.readline() for process in started]
    may_end.touch()
    errors = [e + p.communicate(timeout=60)[1] for e, p in zip(errors, started, strict=True)]
    assert [process.returncode for process in started] == [7, 7, 7], errors
    assert machine.venvs == machine.installs == 1
    assert sum("waiting for another launch" in error for error in errors) == 2


def test_without_flock_it_works_too(machine: Machine) -> None:
    machine.python("python3", "3.12")
    (machine.bin / "flock").unlink(missing_ok=True)
    result = machine.run()
    assert result.code == 7 and "not found" not in result.err and "waiting" not in result.err


@pytest.mark.parametrize("script", ["launch/test.sh", ".ci/run"])
def test_test_runs_every_check_and_closes_with_the_runners_line(
    machine: Machine, script: str
) -> None:
    machine.python("python3", "3.12")
    result = machine.run(script=script)
    assert result.code == 0 and result.out.endswith("3 passed in 0.1s\n"), result
    assert machine.logged("|pip|install|")[0].endswith("|-e|.[dev]|")
    log = machine.log.read_text()
    order = ["ruff|check|.", "ruff|format|--check|.", "mypy|", "shellcheck|-x|launch/", "pytest|"]
    positions = [log.index(word) for word in order]
    assert positions == sorted(positions)
    assert "|launch/local.sh|" in log and "|.ci/run|" in log  # in the repository: globs expand


FILES = "--dist|loadfile|--no-loadscope-reorder|"


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], f"-n|2|{FILES}"),
        (["-m", "not slow", "tests/core"], f"-n|2|{FILES}-m|not slow|tests/core|"),
        (["-n", "4"], f"{FILES}-n|4|"),
        (["-n0", "tests/core"], f"{FILES}-n0|tests/core|"),
        (["--pdb", "tests/core"], "-n|0|--pdb|tests/core|"),
        (["-p", "no:xdist"], "-p|no:xdist|"),
    ],
)
def test_arguments_of_test_go_to_pytest(machine: Machine, arguments: list[str], given: str) -> None:
    machine.python("python3", "3.12")
    machine.run(*arguments, script="launch/test.sh")
    assert machine.logged("|pytest|")[0].endswith(f"python|-m|pytest|{given}")


@pytest.mark.parametrize("check", ["ruff check", "ruff format", "mypy", "shellcheck", "pytest"])
def test_any_failing_check_fails_the_whole(machine: Machine, check: str) -> None:
    machine.python("python3", "3.12")
    result = machine.run(script=".ci/run", FAIL=check)
    assert result.code == 5 and "passed" not in result.out


def test_test_installs_for_itself_and_for_local(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run()
    machine.run(script="launch/test.sh")
    assert machine.installs == 2
    machine.run()
    machine.run(script="launch/test.sh")
    assert machine.installs == 2


def test_pytorch_is_installed_if_asked_for_and_missing(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run(script="launch/test.sh")
    assert machine.installs == 1
    machine.run("--with-pytorch", "tests/core", script="launch/test.sh", TORCH="there")
    assert machine.installs == 1
    result = machine.run(script=".ci/run", DIE_IN_PIP="yes")
    assert result.code == 0 and "PyTorch could not be installed" in result.err, result
    machine.run("--with-pytorch", "tests/core", script="launch/test.sh")
    assert machine.installs == 3
    assert all("torch==" in line for line in machine.logged("|pip|install|")[1:])
    assert machine.logged("|pytest|")[-1].endswith(f"{FILES}tests/core|")


def test_an_environment_for_tests_is_enough_to_run_and_stays_one(machine: Machine) -> None:
    machine.python("python3", "3.12")
    machine.run(script="launch/test.sh")
    (machine.venv / "installed-base").unlink()
    machine.run()
    assert machine.installs == 1
    (machine.repo / "pyproject.toml").write_text("[project]\nname = 'new'\n")
    assert machine.run("--dry-run").out.splitlines()[0].endswith("-e .\\[dev\\])")
    machine.run()
    machine.run(script="launch/test.sh")
    assert machine.installs == 2 and machine.logged("|install|")[1].endswith("|-e|.[dev]|")


def test_scripts_are_executable() -> None:
    for script in ("launch/local.sh", "launch/test.sh", ".ci/run"):
        assert os.access(REPO / script, os.X_OK), script
