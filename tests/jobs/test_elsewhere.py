"""`distill --dry-run --devices N`: a recipe is checked for a pod, on any machine."""

import subprocess
import sys

import pytest

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.jobs.elsewhere import check_recipe
from frepo_scale.main import main
from frepo_scale.plan.accelerator_types import slice_of
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.subject import abstract_mesh


def check(*arguments):
    program = "import sys; from frepo_scale.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, "distill", "imagenet1k_ipc2_m4", "--dry-run", *arguments],
        capture_output=True, text=True,
    )  # fmt: skip


def check_here(name, hardware=None, mesh=(4, 4), **settings):
    """Without devices and without a process of its own."""
    recipe = config.load_recipe(config.find_recipe(name), settings)
    check_recipe(recipe, abstract_mesh(*mesh), hardware and parse_hardware(hardware))


@pytest.mark.slow
def test_a_recipe_of_a_pod_is_checked_without_its_data():
    result = check("--devices", "v5litepod-16", "--gin.DATA_DIR=/mnt/nowhere")
    assert result.returncode == 0 and "16 devices" in result.stdout, result


@pytest.mark.slow
def test_what_does_not_suit_the_pod_is_one_line():
    result = check("--devices", "16", "--gin.MESH_POOL=3")
    assert result.returncode == 2 and "MESH_POOL = 3" in result.stderr, result
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"FULL_DATA": "True"}, "FULL_DATA = True"),
        ({"SOFT_RANDOM": "True"}, "SOFT_RANDOM = True"),
        ({"EVALUATIONS": "['scores']"}, "scores with"),
        ({"EVALUATIONS": "['continual']"}, "'continual' with SERIES = None"),
        ({"EVALUATIONS": "['linear_probe']"}, "without POOL_WEIGHTS"),
        ({"EVALUATIONS": "['cross_architecture']", "CROSS_NETS": "['mlp/instance']"},
         "CROSS_NETS = ['mlp/instance']"),
        ({"SERIES": "'classes'", "SERIES_PARTS": "1001"}, "SERIES_PARTS = 1001"),
        ({"SERIES": "'chunks'"}, "'accuracy' with SERIES = 'chunks'"),
        ({"SERIES": "'chunks'", "EVALUATIONS": "['membership']"}, "'membership' with training"),
        ({"DATA_DIR": "'gs://bucket/imagenet64'"}, "DATA_DIR = gs://bucket/imagenet64"),
        ({"DATA_SOURCE": "'no_such_module.Source'"}, "no_such_module"),
        ({"STEPS_PER_CALL": "8"}, "STEPS_PER_CALL = 8"),
        ({"IPC": "723"}, "IPC = 723"),
        ({"IPC": "200", "CHUNK_OF": "'0/5'"}, "IPC = 200"),
        ({"BATCH": "1280000"}, "BATCH = 1280000"),
        ({"POOL_WEIGHTS": "['a.safetensors']"}, "POOL_WEIGHTS with MAX_ONLINE"),
    ],
)  # fmt: skip
def test_what_a_pod_would_refuse_after_opening_the_data_is_refused_here(settings, what):
    with pytest.raises(InputError) as refused:
        check_here("imagenet1k_ipc2_m4", "v5e:4x4", **settings)
    assert what in refused.value.what


def test_what_a_pod_can_do_is_not_refused():
    check_here("imagenet1k_ipc2_m4", IPC="722")
    # The devices of this slice hold the whole set.
    check_here("imagenet1k_ipc2_m4", "v5p:2x2x4", FULL_DATA="True", STEPS_PER_CALL="8")
    check_here("imagenet1k_ipc2_m4", FULL_DATA="True", DATA_PLACEMENT="'memory'")
    check_here("cifar100_continual_5", "v5e:1x1", (1, 1))
    check_here("cifar10_ipc1", "v5e:1x1", (1, 1), FULL_DATA="True")


@pytest.mark.parametrize(
    ("settings", "fix"),
    [({"IPC": "500"}, "more devices"), ({"POOL_SIZE": "1600"}, "--gin.POOL_SIZE=")],
)
def test_what_does_not_fit_is_refused_with_the_advice_of_the_plan(settings, fix):
    with pytest.raises(InputError) as refused:
        check_here("imagenet1k_ipc2_m4", "v5e:4x4", **settings)
    assert "GB of each device of v5e:4x4" in refused.value.what and fix in refused.value.fix
    check_here("imagenet1k_ipc2_m4", **settings)  # of a number of devices nobody knows it


def test_files_of_nets_that_are_on_the_pod_only_are_not_looked_for(capsys):
    check_here("cifar10_ipc50_frozen", "v5e:1x1", (1, 1), EVALUATIONS="['linear_probe']")
    assert "POOL_WEIGHTS: cifar10_net_0.safetensors" in capsys.readouterr().out


def test_a_set_without_held_out_images_is_known_beforehand():
    with pytest.raises(InputError) as refused:
        check_here("cifar100_ipc1", None, (1, 1), CHUNK_OF="'0/40'", SOFT_RANDOM="True", BATCH="99")
    assert refused.value.what.startswith("SOFT_RANDOM")


@pytest.mark.parametrize(
    ("accelerator_type", "hardware"),
    [("v5litepod-1", "v5e:1x1"), ("v5litepod-16", "v5e:4x4"), ("v6e-256", "v6e:16x16"),
     ("v4-8", "v4:2x2x1"), ("v4-32", "v4:2x2x4"), ("v5p-512", "v5p:4x8x8"),
     ("v5p-12288", "v5p:16x16x24"), ("h100:8", "h100:8"), ("v3-8", "v3-8")],
)  # fmt: skip
def test_an_accelerator_type_is_a_slice(accelerator_type, hardware):
    assert slice_of(accelerator_type) == hardware


@pytest.mark.parametrize(
    ("devices", "what"),
    [("0", "--devices 0"), ("-1", "--devices -1"), ("v5litepod-12", "--devices v5litepod-12"),
     ("v9:4x4", "--devices v9:4x4"), ("v5e:5x5", "--devices v5e:5x5")],
)  # fmt: skip
def test_devices_that_do_not_exist_are_one_line(capsys, devices, what):
    assert main(["distill", "digits_ipc1", "--dry-run", f"--devices={devices}"]) == 2
    error = capsys.readouterr().err
    assert what in error and "--on" not in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_workdir_of_a_run_with_other_settings_is_refused(tmp_path):
    (tmp_path / "identity.json").write_text('{"distill.ipc": 1}')
    result = check("--devices", "16", "--workdir", str(tmp_path))
    assert result.returncode == 2 and str(tmp_path) in result.stderr, result
    assert list(tmp_path.iterdir()) == [tmp_path / "identity.json"]


def test_devices_without_a_dry_run_are_refused(capsys):
    assert main(["distill", "digits_ipc1", "--devices", "4"]) == 2
    assert "--devices 4" in capsys.readouterr().err
