"""Placement of target images, given or automatic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale.core.errors import InputError
from frepo_scale.data.placement import MEMORY_LIMIT, PLACEMENTS, Room, choose_placement, room_of
from frepo_scale.parallel.mesh import single_device_mesh

CPU, POD = Room("cpu", 0), Room("tpu", 16 * 16 * 2**30)
IMAGENET, CIFAR = 1_281_167 * 64 * 64 * 3, 50_000 * 32 * 32 * 3


@pytest.mark.parametrize(
    ("pixels", "prepared", "room", "placement"),
    [
        (CIFAR, False, CPU, "memory"),
        (CIFAR, True, CPU, "memory"),
        (IMAGENET, True, CPU, "stream"),
        (IMAGENET, False, CPU, "memory"),  # there are no records to stream
        (CIFAR, False, POD, "device"),
        (IMAGENET, True, POD, "stream"),
        (IMAGENET, True, Room("tpu", 256 * 16 * 2**30), "device"),
        (CIFAR, False, Room("tpu", 0), "memory"),  # a device that does not report its memory
    ],
)
def test_auto_placement(pixels, prepared, room, placement):
    assert choose_placement("auto", pixels, prepared, room) == placement


@given(
    st.sampled_from(PLACEMENTS[1:]),
    st.integers(1, 10 * MEMORY_LIMIT),
    st.builds(Room, st.sampled_from(["cpu", "gpu", "tpu"]), st.integers(0, 2**45)),
)
def test_a_given_placement_is_used(asked, pixels, room):
    assert choose_placement(asked, pixels, True, room) == asked


def test_streaming_needs_records():
    with pytest.raises(InputError, match="frepo-scale prepare"):
        choose_placement("stream", CIFAR, False, CPU)


def test_a_cpu_has_no_device_memory():
    assert room_of(single_device_mesh()) == CPU
