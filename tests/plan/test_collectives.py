"""Collectives read from lines as compilers write them, on CPU and TPU."""

import pytest

from frepo_scale.plan.collectives import Collective, collectives

# Mesh 2 x 4: devices 0 to 3 are the first row.
LINES = {
    "f32[8,2]{1,0} all-reduce(f32[8,2] %x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%r": (
        "all-reduce",
        "data",
        64,
    ),
    "(f32[], bf16[3]{0}) all-reduce(%a, %b), replica_groups={{0,4},{1,5},{2,6},{3,7}}": (
        "all-reduce",
        "pool",
        10,
    ),
    "f32[4,25]{1,0:T(8,128)} all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}": (
        "all-gather",
        "data",
        400,
    ),
    "f32[2]{0} reduce-scatter(%x), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}": (
        "reduce-scatter",
        "pool",
        8,
    ),
    "f32[] all-reduce(%x), replica_groups=mesh['pool'=2,'data'=4] {'data'}": (
        "all-reduce",
        "data",
        4,
    ),
    "f32[] all-reduce(%x), replica_groups=mesh['a'=4,'c'=2], device_ids=([2,4]T(1,0)) {'a'}": (
        "all-reduce",
        "data",
        4,
    ),
    "pred[5]{0} all-reduce(%x), replica_groups={{0,1,2,3,4,5,6,7}}": ("all-reduce", "both", 5),
    "s32[6]{0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{4,5}}": (
        "collective-permute",
        "data",
        24,
    ),
    "s32[6]{0} collective-permute(%x), source_target_pairs={{0,4},{3,7}}": (
        "collective-permute",
        "pool",
        24,
    ),
    "f32[2]{0} all-reduce(%x), replica_groups={{0,5},{1,4}}": (
        "all-reduce",
        "[[0, 5], [1, 4]]",
        8,
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_kind_axis_and_bytes(line):
    assert collectives(f"  %name.3 = {line}", 2, 4) == [Collective(*LINES[line])]


def test_other_lines_are_none_and_a_chain_is_one():
    chained = '  %a = f32[9]{0} all-gather(%x), replica_groups={{0,1}}, attr={chain_id="7"}'
    text = "\n".join(["HloModule m", "  %d = f32[2]{0} add(%all-reduce.1, %b)", chained, chained])
    assert collectives(text, 1, 2) == [Collective("all-gather", "data", 36)]


def test_groups_in_an_unknown_form_raise():
    with pytest.raises(ValueError, match="groups"):
        collectives("  %a = f32[9]{0} all-gather(%x), replica_groups=new_form", 1, 2)
