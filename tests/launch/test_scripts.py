"""What holds for every launch script: help, a readable length, quoting."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
RUN = ["gpu_node.sh", "processes.sh", "slurm.sbatch", "supervise.sh", "tensorboard.sh",
       "tpu_pod.sh", "tpu_worker.sh"]  # fmt: skip
SOURCED = ["policy.sh", "python_env.sh", "tpu_gcloud.sh", "tpu_run.sh"]


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
    script = f'. "{LAUNCH}/policy.sh"; show printf "%s\\0" "$@"'
    once = subprocess.run(
        ["bash", "-c", script, "x", *given_words], capture_output=True, check=True
    )
    there = subprocess.run(["bash", "-c", once.stdout], capture_output=True, check=True)
    assert there.stdout == b"".join(word.encode() + b"\0" for word in given_words)
