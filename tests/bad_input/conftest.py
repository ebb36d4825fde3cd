"""Wrong input: one clear line, exit code 2, and nothing on the disk is changed.

Every case goes through the command line and stops before compute is spent: the job itself is
replaced by a failure.
"""

import pytest

from frepo_scale.jobs import distill as distill_job
from frepo_scale.jobs import evaluate as evaluate_job
from frepo_scale.main import main


@pytest.fixture(autouse=True)
def cwd(tmp_path, monkeypatch):
    """The current folder of the commands, with another file in it; compute fails."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.txt").write_text("mine")

    def spent(*arguments, **named):
        raise AssertionError("compute was spent on wrong input")

    monkeypatch.setattr(distill_job, "_Attempt", spent)
    monkeypatch.setattr(evaluate_job, "evaluate_sets", spent)
    return tmp_path


def snapshot(folder):
    """Every path below a folder with its content and time of change."""
    return {
        path.relative_to(folder): (
            path.read_bytes() if path.is_file() else None,
            path.lstat().st_mtime_ns,
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(cwd, capsys):
    """Runs a command that must be refused with all of `mentions` in its one line."""

    def check(*arguments, mentions):
        before = snapshot(cwd)
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("frepo-scale: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        for words in mentions:
            assert words in err
        assert snapshot(cwd) == before

    return check


@pytest.fixture
def distill(refused):
    """Refuses `frepo-scale distill` of the digits with settings."""

    def check(*settings, mentions, workdir="w"):
        refused("distill", "digits_ipc1", "--workdir", workdir, *settings, mentions=mentions)

    return check
