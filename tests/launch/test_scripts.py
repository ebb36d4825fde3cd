"""What holds for every launch script: help, a readable length, quoting."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
RUN = ["gpu_node.sh", "processes.sh", "python_env.sh", "slurm.sbatch", "supervise.sh",
       "tensorboard.sh", "tpu_pod.sh", "tpu_worker.sh"]  # fmt: skip
SOURCED = ["options.sh", "policy.sh", "tpu_call.sh", "tpu_check.sh", "tpu_gcloud.sh", "tpu_run.sh"]


def test_the_lists_here_are_complete():
    scripts = {p.name for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch")}
    assert scripts == {*RUN, *SOURCED, "local.sh", "test.sh"}


@pytest.mark.parametrize("script", RUN)
def test_help_needs_nothing_and_changes_nothing(script, tmp_path):
    for option in ("--help", "-h"):
        result = subprocess.run(
            ["bash", str(LAUNCH / script), option],
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode == 0 and result.stdout.startswith("usage: "), result
        assert script in result.stdout and not list(tmp_path.iterdir())


def test_what_is_run_is_executable_and_what_is_sourced_is_not():
    for script in RUN:
        assert os.access(LAUNCH / script, os.X_OK), script
    for script in SOURCED:
        assert not os.access(LAUNCH / script, os.X_OK), script


def test_scripts_stay_readable():
    for script in [*RUN, *SOURCED]:
        lines = (LAUNCH / script).read_text().splitlines()
        assert len(lines) <= 300, script
        assert max(map(len, lines)) <= 110, script


words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=1, max_size=5))
def test_any_words_survive_two_shells(given_words):
    """As on the way through gcloud: printed here, read by a shell there, and printed once more."""
    script = f'. "{LAUNCH}/options.sh"; show printf "%s\\0" "$@"'
    once = subprocess.run(
        ["bash", "-c", script, "x", *given_words], capture_output=True, check=True
    )
    there = subprocess.run(["bash", "-c", once.stdout], capture_output=True, check=True)
    assert there.stdout == b"".join(word.encode() + b"\0" for word in given_words)


READ = """
. "$0/python_env.sh"; . "$0/options.sh"
flags=(--help --dry-run --create) valued=(--zone --max-hours)
set_option() { printf '<%s>' "$@"; }
read_options "$@"
printf '|%s|' "$recipe"; printf '<%s>' ${arguments[@]+"${arguments[@]}"}
"""


def read(*given):
    return subprocess.run(["bash", "-c", READ, str(LAUNCH), *given], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["r", "--dry-run"], "<--dry-run>|r|<>"),
        (["--create", "r", "--zone", "z", "--gin.X=1"], "<--create><--zone><z>|r|<--gin.X=1>"),
        (["--zone=--x", "r", "y"], "<--zone><--x>|r|<y>"),
        (["r", "--gin.X", "-1", "--dry-run"], "<--dry-run>|r|<--gin.X><-1>"),
        (["r", "--gin.X", "--dry-run"], "<--dry-run>|r|<--gin.X>"),
        (["r", "--workdir", "w", "--workdir=v"], "|r|<--workdir><w><--workdir><v>"),
        (["r", "--", "--dry-run", "--", "--wat"], "|r|<--dry-run><--><--wat>"),
        (["--", "--r", "x"], "|--r|<x>"),
        (["", "x", "-"], "||<x><->"),
        ([], "||<>"),
    ],
)
def test_options_of_a_launcher_are_its_own_wherever_they_stand(given, expected):
    result = read(*given)
    assert result.returncode == 0 and result.stdout == expected, result


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["r", "--dry-rn"], "did you mean --dry-run?"),
        (["r", "--dry_run"], "did you mean --dry-run?"),
        (["r", "--max"], "did you mean --max-hours?"),
        (["r", "--workdr", "x"], "did you mean --workdir?"),
        (["r", "--frobnicate=1"], "'--frobnicate'"),
        (["r", "--zone"], "--zone has no value"),
        (["r", "--zone", "--dry-run"], "--zone has no value"),
        (["r", "--create=yes"], "--create takes no value"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(given, words):
    result = read(*given)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result
    assert words in result.stderr and "|" not in result.stdout


@pytest.mark.parametrize(
    ("kind", "lines"), [("base", ["-e ."]), ("tpu", ["--require-hashes -r", "--no-deps -e ."])]
)
def test_install_only_of_a_fresh_clone(tmp_path, kind, lines):
    (tmp_path / "launch").mkdir()
    for name in ("python_env.sh", "options.sh"):
        (tmp_path / "launch" / name).write_text((LAUNCH / name).read_text())
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "tpu.txt").touch()
    script = ["bash", str(tmp_path / "launch" / "python_env.sh"), "--install-only"]
    result = subprocess.run([*script, kind, "--dry-run"], capture_output=True, text=True)
    shown = [line for line in result.stdout.splitlines() if " pip install " in line]
    assert result.returncode == 0 and len(shown) == len(lines), result
    assert all(words in line for words, line in zip(lines, shown, strict=True))
    newest = subprocess.run(
        [*script, kind, "--dry-run", "--latest"], capture_output=True, text=True
    )
    assert "--require-hashes" not in newest.stdout and " -e ." in newest.stdout
    assert not (tmp_path / ".venv").exists()
    assert subprocess.run([*script, "everything"], capture_output=True).returncode == 2
