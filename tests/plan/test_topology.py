"""TPU slices to compile for."""

import pytest
from jax.experimental import topologies

from frepo_scale.core.errors import InputError
from frepo_scale.plan.compilers import install_command
from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.topology import devices_of, tpu_devices


def test_what_the_compiler_says_of_a_wrong_slice_is_passed_on(monkeypatch):
    def refuse(**given):
        raise RuntimeError(f"no {given['topology_name']} here\nsecond line")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(InputError, match="'v5e:3x3': no v5e:3x3 here: expected a slice") as caught:
        tpu_devices("v5e:3x3")
    # Apart from the packages: where JAX finds libtpu, every program tries to start a TPU.
    assert install_command("tpu") in caught.value.fix


@pytest.mark.parametrize(
    ("name", "joined", "alone"),
    [("v4:2x2x2", True, False), ("v5e:4x4", False, False), ("v5e:1x1", False, True)],
)
def test_the_chips_of_a_slice_are_described(name, joined, alone, monkeypatch):
    """Both cores of a v4 chip are one device; a slice of one chip has a host of one chip."""
    asked = {}

    class Found:
        devices = ("one",)

    def answer(**given):
        asked.update(given)
        return Found

    monkeypatch.setattr(topologies, "get_topology_desc", answer)
    assert tpu_devices(name) == ("one",)
    assert asked["topology_name"] == name
    assert (asked.get("chip_config_name") == "megacore") is joined
    assert (asked.get("chips_per_host_bounds") == (1, 1, 1)) is alone


@pytest.mark.parametrize(
    ("name", "topology", "capability"),
    [("h100:4x8", "1x4x8", "major: 9 minor: 0"), ("a100:1", "1x1x1", "major: 8 minor: 0")],
)
def test_gpus_are_described_to_the_compiler(name, topology, capability, monkeypatch):
    asked = {}

    class Found:
        devices = ("one",)

    def answer(**given):
        asked.update(given)
        return Found

    monkeypatch.setattr(topologies, "get_topology_desc", answer)
    assert devices_of(parse_hardware(name)) == ("one",)
    assert (asked["platform"], asked["topology"]) == ("cuda", topology)
    assert capability in asked["target_config"]
