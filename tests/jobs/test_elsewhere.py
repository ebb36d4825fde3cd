"""`distill --dry-run --devices N`: a recipe is checked for a pod, on any machine."""

import subprocess
import sys

import pytest

from frepo_scale.main import main


def check(*arguments):
    program = "import sys; from frepo_scale.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, "distill", "imagenet1k_ipc2_m4", "--dry-run", *arguments],
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_recipe_of_a_pod_is_checked_without_its_data():
    result = check("--devices", "16", "--gin.DATA_DIR=/mnt/nowhere")
    assert result.returncode == 0 and "16 devices" in result.stdout, result


@pytest.mark.slow
def test_what_does_not_suit_the_pod_is_one_line():
    result = check("--devices", "16", "--gin.MESH_POOL=3")
    assert result.returncode == 2 and "MESH_POOL = 3" in result.stderr, result
    assert result.stderr.count("\n") == 1


def test_devices_without_a_dry_run_are_refused(capsys):
    assert main(["distill", "digits_ipc1", "--devices", "4"]) == 2
    assert "--devices 4" in capsys.readouterr().err
    assert main(["distill", "digits_ipc1", "--dry-run", "--devices", "0"]) == 2
