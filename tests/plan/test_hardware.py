"""What `--on` accepts, and how fast mesh axes are on it."""

import pytest

from frepo_scale.core.errors import InputError
from frepo_scale.plan.chips import CHIPS
from frepo_scale.plan.gpu_target import target_text
from frepo_scale.plan.hardware import parse_hardware, with_devices


@pytest.mark.parametrize(
    ("name", "devices", "hosts"),
    [
        ("v5e:4x4", 16, 4),
        ("v5e:1x1", 1, 1),
        ("v5e:16x16", 256, 64),
        ("v6e:2x4", 8, 1),
        ("v4:2x2x2", 8, 2),
        ("v4:4x4x4", 64, 16),
        ("v5p:4x4x8", 128, 32),
        ("h100:8", 8, 1),
        ("h100:4x8", 32, 4),
        ("l4:1", 1, 1),
    ],
)
def test_devices_and_hosts(name, devices, hosts):
    found = parse_hardware(name)
    assert (found.devices, found.hosts, found.name) == (devices, hosts, name)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("v5:4x4", "v5e"),  # the nearest
        ("H100:8", "h100"),
        ("tpu", "v5e:4x4"),
        ("", "v5e:4x4"),
        ("v5e", "16x16"),  # what it comes in
        ("v5e:3x3", "4x4"),
        ("v5e:4x4x4", "4x4"),
        ("v4:2x2", "2x2x1"),
        ("v4:3x3x3", "4x4x4"),
        ("v4:8x4x4", "4x4x8"),  # sides ascend
        ("v4:16x16x32", "4096"),
        ("h100:16", "h100:2x8"),
        ("h100:0", "h100:8"),
        ("h100:2x2x2", "h100:8"),
        ("h100:1e3", "h100:8"),
    ],
)
def test_what_does_not_exist(name, named):
    with pytest.raises(InputError) as caught:
        parse_hardware(name)
    assert f"--on {name}" in caught.value.what
    assert named in f"{caught.value.expected} {caught.value.fix}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("v5litepod-16", "v5e:4x4"),
        ("v6e-256", "v6e:16x16"),
        ("v4-8", "v4:2x2x1"),  # a name of Google Cloud counts cores
        ("v4-128", "v4:4x4x4"),
        ("v5p-512", "v5p:4x8x8"),
        ("V5E:4X4", "v5e:4x4"),
        ("v4:8x4x4", "v4:4x4x8"),
        ("h100:16", "h100:2x8"),
        ("h100:08", "h100:8"),
        ("h100x8", "h100:8"),
        ("8xH100", "h100:8"),
        ("h100-pcie-4", "h100-pcie:4"),
        ("h100: 4x8", "h100:4x8"),
        ("a100-80gb:8", "a100:8"),
        ("a100-80gb", "a100"),
    ],
)
def test_other_spellings_are_understood(written, meant):
    with pytest.raises(InputError) as caught:
        parse_hardware(written)
    assert caught.value.fix == f"use --on {meant}"
    assert parse_hardware(meant).devices > 0


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("cpu:8", "use --on cpu"),
        ("CPU", "use --on cpu"),
        ("gpu:8", "h100"),
        ("TPU", "v5e"),
        ("v5e:4x4,h100:8", "--on once for each"),
        ("h100:8,v5e:4x4", "--on once for each"),
        ("h100:8193x8", "such as"),
    ],
)
def test_what_is_no_name_of_a_chip(name, named):
    with pytest.raises(InputError) as caught:
        parse_hardware(name)
    assert f"--on {name}" in caught.value.what and named in caught.value.fix


def test_every_advice_about_shapes_is_accepted():
    for name in CHIPS:
        with pytest.raises(InputError) as caught:
            parse_hardware(f"{name}:0")
        words = caught.value.fix.split()
        given = [words[i + 1] for i, word in enumerate(words) if word == "--on"]
        assert given
        for one in given:
            parse_hardware(one)


def test_the_rate_of_an_axis():
    v5e = CHIPS["v5e"]
    assert parse_hardware("v5e:16x16").axis_rate(16, 1) == 2 * v5e.link  # a ring
    assert parse_hardware("v5e:4x4").axis_rate(4, 1) == v5e.link  # a line
    assert parse_hardware("v5e:16x16").axis_rate(256, 1) == 4 * v5e.link  # two rings
    assert parse_hardware("v5e:16x16").axis_rate(64, 1) == 3 * v5e.link  # a ring and a line
    assert parse_hardware("v5e:16x16").axis_rate(4, 64) == v5e.link  # a part of a side
    assert parse_hardware("v5e:4x4").axis_rate(16, 1) == 2 * v5e.link  # two lines
    v4, cube = CHIPS["v4"], parse_hardware("v4:4x4x4")
    assert cube.axis_rate(4, 4) == 2 * v4.link
    assert cube.axis_rate(64, 1) == 6 * v4.link and cube.axis_rate(16, 4) == 4 * v4.link
    h100, four = CHIPS["h100"], parse_hardware("h100:4x8")
    assert four.axis_rate(8, 1) == four.axis_rate(2, 4) == h100.link  # inside a host
    assert four.axis_rate(4, 8) == h100.network  # one device of each host
    assert four.axis_rate(8, 4) == 2 * h100.network and four.axis_rate(32, 1) == 8 * h100.network
    assert parse_hardware("h100:8x2").axis_rate(16, 1) == 2 * h100.network
    assert parse_hardware("b200:2x8").axis_rate(16, 1) < CHIPS["b200"].link
    assert parse_hardware("h100-pcie:2x8").axis_rate(16, 1) == CHIPS["h100-pcie"].link


def test_other_numbers_of_devices():
    assert with_devices(parse_hardware("v5e:4x4"), 1024).devices == 1024
    for name in ("v5e:4x8", "v5e:8x8", "v4:2x2x4", "v4:2x4x4", "v5p:4x4x4", "v5p:4x4x8"):
        slice_ = parse_hardware(name)
        assert with_devices(slice_, slice_.devices).shape == slice_.shape
    assert with_devices(parse_hardware("v4:4x4x4"), 192).devices == 192
    many = with_devices(parse_hardware("h100:8"), 32)
    assert (many.devices, many.hosts) == (32, 4)
    assert with_devices(parse_hardware("h100:8"), 2).hosts == 1


def test_rates_are_ordered_and_sources_are_complete():
    for chip in CHIPS.values():
        rates = chip.rates
        assert rates["bfloat16"] >= rates["default"] >= rates["high"] >= rates["highest"] > 0
        assert chip.link >= chip.network > 0
        assert chip.platform == "gpu" or rates["float64"] == 0


@pytest.mark.parametrize(
    ("name", "bfloat16", "tf32", "float64", "memory", "bandwidth", "link"),
    [  # the data sheets: TFLOP/s without sparsity, float64 of tensor cores, GB, GB/s
        ("a100", 312, 156, 19.5, 80, 2039, 300),
        ("a100-40gb", 312, 156, 19.5, 40, 1555, 300),
        ("h100", 1979 / 2, 989 / 2, 67, 80, 3350, 450),
        ("h100-pcie", 1513 / 2, 756 / 2, 51, 80, 2000, 64),
        ("h200", 1979 / 2, 989 / 2, 67, 141, 4800, 450),
        ("b200", 2250, 1100, 37, 180, 7700, 900),
        ("l4", 242 / 2, 120 / 2, 0.47, 24, 300, 32),
    ],
)
def test_gpus_as_in_their_data_sheets(name, bfloat16, tf32, float64, memory, bandwidth, link):
    chip = CHIPS[name]
    found = [chip.rates[x] / 1e12 for x in ("bfloat16", "default", "float64")]
    found += [chip.memory / 1e9, chip.bandwidth / 1e9, chip.link / 1e9]
    assert found == pytest.approx([bfloat16, tf32, float64, memory, bandwidth, link], rel=5e-3)


def test_every_gpu_can_be_described_to_the_compiler():
    for chip in CHIPS.values():
        if chip.platform == "gpu":
            major, minor = chip.capability.split(".")
            assert f"major: {major} minor: {minor}" in target_text(chip)


def test_the_description_of_an_h100():
    text = target_text(CHIPS["h100"])
    for words in ("major: 9 minor: 0", "core_count: 132", "device_memory_size: 84942979072"):
        assert words in text
    assert text.count("{") == text.count("}")
