"""Which devices "auto" gives float64: a table of device kinds, as JAX names them."""

from types import SimpleNamespace

import jax
import pytest

from frepo_scale.regression.precision import has_fast_float64
from frepo_scale.regression.ridge import RidgeConfig

FAST = [
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H100 PCIe",
    "NVIDIA H200",
    "NVIDIA GH200 480GB",
    "NVIDIA A100-SXM4-40GB",
    "NVIDIA A100 80GB PCIe",
    "NVIDIA A30",
    "Tesla V100-SXM2-16GB",
    "Tesla P100-PCIE-16GB",
    "NVIDIA B200",
    "NVIDIA GB200",
    "AMD Instinct MI210",
    "AMD Instinct MI250X",
    "AMD Instinct MI300X",
    "gfx942",
]
SLOW = [
    "NVIDIA L4",
    "NVIDIA L40",
    "NVIDIA L40S",
    "NVIDIA A10",
    "NVIDIA A10G",
    "NVIDIA A40",
    "NVIDIA A16",
    "NVIDIA A2",
    "Tesla T4",
    "Tesla P40",
    "Tesla P4",
    "NVIDIA B300",
    "NVIDIA GB10",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA RTX A6000",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA RTX A1000 Laptop GPU",
    "AMD Radeon RX 7900 XTX",
    "gfx1100",
    "a card of the future",
]


def device(platform, kind, **other):
    return SimpleNamespace(platform=platform, device_kind=kind, **other)


@pytest.mark.parametrize("kind", FAST)
def test_accelerators_with_half_rate_float64_use_it(kind):
    assert has_fast_float64(device("gpu", kind))
    assert RidgeConfig().resolved(device("gpu", kind)).precision == "float64"


@pytest.mark.parametrize("kind", SLOW)
def test_other_cards_use_the_float32_path(kind):
    assert not has_fast_float64(device("gpu", kind))
    config = RidgeConfig().resolved(device("gpu", kind))
    assert (config.precision, config.factorisation) == ("float32", "library")


@pytest.mark.parametrize(
    ("capability", "fast"),
    [("6.0", True), ("7.0", True), ("8.0", True), ("9.0", True), ("10.0", True)]
    + [(slow, False) for slow in ("6.1", "7.5", "8.6", "8.9", "10.3", "12.0", "12.1")],
)
def test_the_compute_capability_decides_before_the_name(capability, fast):
    name = "NVIDIA L4" if fast else "NVIDIA H100"
    assert has_fast_float64(device("gpu", name, compute_capability=capability)) == fast


def test_an_architecture_as_capability_is_read_like_a_name():
    assert has_fast_float64(device("gpu", "AMD Accelerator", compute_capability="gfx90a"))
    assert not has_fast_float64(device("gpu", "AMD Accelerator", compute_capability="gfx1030"))


def test_cpu_and_tpu():
    cpu = RidgeConfig().resolved(jax.devices()[0])
    assert (cpu.precision, cpu.factorisation) == ("float64", "library")
    tpu = RidgeConfig().resolved(device("tpu", "TPU v5 lite"))
    assert (tpu.precision, tpu.factorisation) == ("float32", "blocked")


def test_a_configured_precision_stays():
    for precision in ("float32", "float64"):
        config = RidgeConfig(precision=precision)
        assert config.resolved(device("gpu", "NVIDIA L4")).precision == precision
