"""launch/examples/mount_bucket.sh, the --setup script that the documentation uses."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "launch" / "examples" / "mount_bucket.sh"


@pytest.fixture
def run(tmp_path, helpers):
    """Runs the script with programs that note their arguments; sudo runs what it is given."""

    def note(name, more=""):
        text = f'#!/bin/sh\nprintf "%s|" {name} "$@" >>"{tmp_path}/log"; echo >>"{tmp_path}/log"\n'
        helpers.write_program(tmp_path / "bin" / name, text + more)

    for name in ("gcloud", "gcsfuse"):
        note(name)
    helpers.write_program(tmp_path / "bin" / "sudo", '#!/bin/sh\nexec "$@"\n')
    helpers.write_program(tmp_path / "bin" / "mountpoint", '#!/bin/sh\n[ -e "$2/mounted" ]\n')

    def run(**environment):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        given = {"PATH": path, "DATA_DIR": str(tmp_path / "my data"), **environment}
        result = subprocess.run(["bash", str(SCRIPT)], env=given, capture_output=True, text=True)
        log = tmp_path / "log"
        return result, log.read_text().splitlines() if log.exists() else []

    return run


def test_it_copies(run, tmp_path):
    result, log = run(DATA_BUCKET="gs://b/a folder")
    assert result.returncode == 0, result
    assert log == [f"gcloud|storage|rsync|--recursive|gs://b/a folder|{tmp_path}/my data|"]
    assert os.access(tmp_path / "my data", os.W_OK)


@pytest.mark.parametrize(("folder", "only"), [("/a/b", "--only-dir|a/b|"), ("", "")])
def test_it_mounts_once(run, tmp_path, folder, only):
    given = {"DATA_BUCKET": f"gs://bucket{folder}", "DATA_MODE": "mount"}
    result, log = run(**given)
    assert result.returncode == 0, result
    assert log == [f"gcsfuse|-o|ro|--implicit-dirs|{only}bucket|{tmp_path}/my data|"]
    (tmp_path / "my data" / "mounted").touch()
    result, log = run(**given)
    assert result.returncode == 0 and len(log) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"DATA_DIR": "data"}, {"DATA_BUCKET": "b/x"}, {"DATA_BUCKET": "gs://b", "DATA_MODE": "x"}],
)
def test_wrong_input_ends_with_2(run, wrong):
    result, log = run(**wrong)
    assert result.returncode == 2 and not log and next(reversed(wrong)) in result.stderr
