"""Compiles the outer step for a mesh and prints its collectives as one JSON line.

A separate program, because the number of devices is fixed when JAX starts. Argument: a JSON object,
whose "text" is a file for the text of the compiled program.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_train_state, make_train_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import MeshConfig, build_mesh
from frepo_scale.plan.collectives import collectives
from frepo_scale.regression.ridge import RidgeConfig


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
    ridge = RidgeConfig(1e-3, case["form"], "float32")
    frepo = FRePo(Problem(module, config, pool, ridge, mesh, size, batch))
    state = initial_train_state(frepo, start)
    step = make_train_step(frepo, state)
    count = case["members"] * batch
    shapes = Batch(
        jax.ShapeDtypeStruct((count, side, side, 3), np.float32),
        jax.ShapeDtypeStruct((count,), np.int32),
    )
    text = step.lower(state, shapes).compile().as_text()
    Path(case["text"]).write_text(text)
    print(
        "RESULT " + json.dumps([c._asdict() for c in collectives(text, pool_axis, data_axis)]),
        flush=True,
    )


if __name__ == "__main__":
    main()
