"""Compiles the outer step for a mesh and prints its collectives as one JSON line.

A program of its own: the number of devices is fixed when JAX starts. Argument: a JSON object.
"""

import json
import re
import sys

import jax
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_state
from frepo_scale.distill.step import OuterStep, make_outer_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import MeshConfig, build_mesh
from frepo_scale.regression.ridge import RidgeConfig

KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
LINE = re.compile(rf"= (\(?.*?\)?) ({KINDS})(?:-start)?\(")
SHAPE = re.compile(r"([a-z]\w*?)(\d+)?\[([\d,]*)\]")
EXPLICIT = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})\}")
IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)


def numbers(text):
    return [int(x) for x in text.split(",") if x]


def groups(line):
    """The replica groups of a collective, as a sorted list of sorted lists."""
    if found := EXPLICIT.search(line):
        return sorted(sorted(numbers(g)) for g in re.findall(r"\{([\d,]*)\}", found[1]))
    if found := MESH.search(line):
        axes = re.findall(r"'(\w+)'=(\d+)", found[1])
        sizes = [int(size) for _, size in axes]
        ids = np.arange(np.prod(sizes))
        if found[2]:
            ids = ids.reshape(numbers(found[2]))
        if found[3]:
            ids = ids.transpose(numbers(found[3]))
        spanned = [i for i, (name, _) in enumerate(axes) if f"'{name}'" in found[4]]
        ids = np.moveaxis(ids.reshape(sizes), spanned, range(-len(spanned), 0))
        rows = ids.reshape(-1, int(np.prod([sizes[i] for i in spanned])))
        return sorted(sorted(row) for row in rows.tolist())
    found = IOTA.search(line)
    assert found, line[:400]
    ids = np.arange(np.prod(numbers(found[2]))).reshape(numbers(found[2]))
    if found[3]:
        ids = ids.transpose(numbers(found[3]))
    return sorted(sorted(row) for row in ids.reshape(numbers(found[1])).tolist())


def collectives(text, pool, data):
    """Kind, mesh axis and result bytes of every collective of a compiled module."""
    grid = np.arange(pool * data).reshape(pool, data)
    axes = {
        "data": sorted(grid.tolist()),
        "pool": sorted(grid.T.tolist()),
        "both": [sorted(grid.ravel().tolist())],
    }
    found = []
    for line in text.splitlines():
        if not (match := LINE.search(line)):
            continue
        size = 0
        for _, bits, shape in SHAPE.findall(match[1]):
            size += int(np.prod(numbers(shape))) * int(bits or 8) // 8
        where = groups(line)
        names = [name for name, expected in axes.items() if where == expected]
        found.append({"kind": match[2], "axis": names[0] if names else str(where), "bytes": size})
    return found


def main():
    case = json.loads(sys.argv[1])
    pool_axis, data_axis = case["mesh"]
    mesh = build_mesh(MeshConfig(pool_axis, data_axis))
    side, classes, size, batch = case["side"], 5, case["size"], 16
    module = ConvNet(num_classes=classes, width=8, depth=2, norm="batch")
    config = DistillConfig(ipc=size // classes, steps=100, flip=True)
    pool = PoolConfig(size=8, members=case["members"], batch=case["online"])
    start = DistilledSet(
        np.zeros((size, side, side, 3), np.float32), np.zeros((size, classes), np.float32)
    )
    state = initial_state(module, config, pool, start, mesh)
    ridge = RidgeConfig(1e-3, case["form"], "float32")
    step = make_outer_step(OuterStep(module, config, pool, ridge, mesh, size, batch), state)
    count = case["members"] * batch
    shapes = Batch(
        jax.ShapeDtypeStruct((count, side, side, 3), np.float32),
        jax.ShapeDtypeStruct((count,), np.int32),
    )
    text = step.lower(state, shapes).compile().as_text()
    print("RESULT " + json.dumps(collectives(text, pool_axis, data_axis)), flush=True)


if __name__ == "__main__":
    main()
