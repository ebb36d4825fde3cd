"""The memory line of a run on an accelerator, with a device that is not there."""

from types import SimpleNamespace

import numpy as np
import pytest

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.jobs.machine import memory_line, plan_here
from frepo_scale.jobs.subject import subject_of, with_settings
from frepo_scale.parallel.mesh import single_device_mesh


def run(**settings):
    recipe = config.load_recipe(config.find_recipe("digits_ipc10"), settings)
    subject = subject_of(recipe.name, recipe.config, (8, 8, 1), 10)
    mesh = single_device_mesh()
    return SimpleNamespace(
        recipe=recipe,
        config=recipe.config,
        dataset=SimpleNamespace(image_shape=(8, 8, 1), num_classes=10),
        algorithm=subject.build(mesh),
        mesh=mesh,
    )


def device(room, platform="gpu", kind="NVIDIA H100 80GB HBM3"):
    return SimpleNamespace(
        platform=platform,
        device_kind=kind,
        compute_capability="9.0",
        memory_stats=lambda: {"bytes_limit": room} if room else None,
    )


def test_a_line_where_it_fits():
    line = memory_line(run(), device(80 * 10**9))
    assert line.startswith("memory of a device: ") and " of 80.0 GB" in line
    assert "in evaluations " in line and "Evaluation.batch" not in line
    wide = run(WIDTH="2048", POOL_SIZE="1")
    needed = float(memory_line(wide, device(80 * 10**9)).split("in evaluations ")[1].split()[0])
    assert "Evaluation.batch" in memory_line(wide, device(int(0.95e9 * needed)))


@pytest.mark.parametrize("other", [device(80 * 10**9, "cpu", "cpu"), device(0)])
def test_nothing_is_said_where_the_memory_is_not_known(other):
    assert memory_line(run(), other) == ""


def test_what_cannot_fit_is_refused_and_the_advice_fits():
    large = run(POOL_SIZE="64", WIDTH="256")
    line = memory_line(large, device(80 * 10**9))
    state = float(line.split("batch ")[1].split()[0]) * 1e9
    room = int(state * 0.6)
    with pytest.raises(InputError) as caught:
        memory_line(large, device(room))
    assert caught.value.what.startswith("an outer step of digits_ipc10 needs ")
    flags = [flag.removeprefix("--gin.") for flag in caught.value.fix.split() if "--gin." in flag]
    settings = dict(flag.split("=") for flag in flags)
    assert settings
    changed = with_settings(large.config, {name: int(value) for name, value in settings.items()})
    mended = SimpleNamespace(**vars(large) | {"config": changed})
    mended.algorithm = subject_of("", changed, (8, 8, 1), 10).build(large.mesh)
    assert memory_line(mended, device(room))
    with pytest.raises(InputError) as caught:
        memory_line(large, device(1000))
    assert "more devices" in caught.value.fix


def on(devices, **settings):
    """A run on devices that are not here; a plan needs only their description."""
    placed = run(**settings)
    grid = np.array(devices, dtype=object).reshape(1, -1)
    placed.mesh = SimpleNamespace(devices=grid, shape={"pool": 1, "data": len(devices)})
    return placed


def gpus(kind, hosts, each):
    return [
        SimpleNamespace(**vars(device(40 * 10**9, kind=kind)) | {"process_index": host})
        for host in range(hosts)
        for _ in range(each)
    ]


def test_the_plan_of_the_gpus_of_a_run():
    found = plan_here(on(gpus("NVIDIA A100-SXM4-40GB", 2, 4)))
    assert found.hardware.shape == (2, 4) and found.hardware.chip.name == "a100"
    assert found.hardware.chip.memory == 40e9  # as the device reports
    assert found.hardware.chip.title == "NVIDIA A100-SXM4-40GB"
    assert (found.pool, found.data) == (1, 8) and 0 < found.seconds < 1


@pytest.mark.parametrize(
    ("kind", "sides", "name"), [("TPU v5 lite", (4, 2, 1), "v5e"), ("TPU v4", (2, 2, 4), "v4")]
)
def test_the_plan_of_a_slice(kind, sides, name):
    devices = [
        SimpleNamespace(**vars(device(15 * 10**9, "tpu", kind)) | {"coords": coords})
        for coords in np.ndindex(*sides)
    ]
    found = plan_here(on(devices))
    assert found.hardware.chip.name == name
    assert found.hardware.shape == tuple(sorted(sides))[-2 if name == "v5e" else -3 :]


@pytest.mark.parametrize("kind", ["NVIDIA L40S", "NVIDIA GeForce RTX 4090", "cpu"])
def test_no_plan_for_unknown_devices(kind):
    platform = "cpu" if kind == "cpu" else "gpu"
    assert plan_here(on([device(10**10, platform, kind)])) is None
