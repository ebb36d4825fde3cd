"""Runs outer steps on given meshes in this process and prints their losses, a JSON line a group.

A separate program, because the number of devices is fixed when JAX starts.
Arguments: a JSON object of
groups of cases; then, for several processes, coordinator address, their number and the own one.
"""

import json
import os
import sys
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.distill import implicit, members
from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.outer import OuterConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.rcig import RCIG
from frepo_scale.distill.state import (
    checkpoint_tree,
    from_checkpoint_tree,
    initial_train_state,
    make_train_step,
)
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.checkpoint import Checkpointer
from frepo_scale.parallel.mesh import DATA, POOL, MeshConfig, build_mesh, over, platform_of
from frepo_scale.regression.ridge import RidgeConfig

CLASSES, BATCH, SIDE, STEPS = 5, 16, 16, 30


def random_net(module, number):
    """Flax variables, as a file has them."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    rng = np.random.default_rng(number)
    return jax.tree.map(lambda x: rng.uniform(-0.3, 0.5, x.shape) ** 2, dict(shapes))


@lru_cache
def prepared(text):
    """The start, the step and the mesh of a case, which is compiled once."""
    case = json.loads(text)
    for module in (members, implicit):
        module.platform_of = lambda mesh: case.get("platform", platform_of(mesh))
    pool_axis, data_axis = case["mesh"]
    devices = jax.devices()[: pool_axis * data_axis]
    mesh = build_mesh(MeshConfig(pool_axis, data_axis), devices)
    dtype = np.dtype(case.get("dtype", "float64"))
    size = case.get("size", 10)
    module = ConvNet(CLASSES, case.get("width", 8), depth=2, norm=case.get("norm", "batch"))
    config = DistillConfig(
        ipc=size // CLASSES,
        steps=1000,
        learning_rate=1e-2,
        flip=case.get("flip", True),
        seed=3,
        chunk=case.get("chunk", 1024),
    )
    # Ages start at up to T: with T = 3 every stratum sees resets within the run.
    pool = PoolConfig(
        size=case.get("pool", 8),
        members=case["members"],
        max_online=3,
        batch=case.get("online", 1000),
        online_steps=case.get("online_steps", 1),
        draw_online_steps="online_steps" in case,
    )
    if "frozen" in case:
        paths = tuple(map(str, range(case["frozen"])))
        pool = PoolConfig(case["pool"], case["members"], 0, weights=paths)
    rng = np.random.default_rng(0)
    start = DistilledSet(
        rng.normal(size=(size, SIDE, SIDE, 3)).astype(dtype),
        rng.normal(size=(size, CLASSES)).astype(dtype),
    )
    ridge = RidgeConfig(
        case.get("ridge", 1e-6),
        case.get("form", "auto"),
        case.get("precision", "auto"),
        factorisation=case.get("factorisation", "auto"),
        block=case.get("block", 256),
        distribute_above=case.get("distribute_above", 4096),
        scale=case.get("scale", "relative"),
    )

    outer = OuterConfig(**case.get("outer", {}))
    augment = AugmentConfig(flip=True) if "frozen" in case else None
    nets = tuple(random_net(module, number) for number in range(case.get("frozen", 0)))
    problem = Problem(module, config, pool, ridge, mesh, size, BATCH, outer, augment, nets)
    algorithm = FRePo(problem)
    if "rcig" in case:
        algorithm = RCIG(problem, *case["rcig"])

    def state():
        return initial_train_state(algorithm, start)

    return algorithm, state, make_train_step(algorithm, state())


def losses(case):
    """Loss, online loss and raised ridges of every step of a case.

    With a folder "checkpoints" it resumes from the newest one in it and saves one at its end.
    """
    how = {name: value for name, value in case.items() if name not in ("checkpoints", "steps")}
    frepo, start, step = prepared(json.dumps(how))
    mesh, count, dtype = frepo.problem.mesh, case["members"], case.get("dtype", "float64")
    state, first = start(), 0
    checkpointer = None
    if "checkpoints" in case:
        checkpointer = Checkpointer(Path(case["checkpoints"]))
        restored = checkpointer.restore(checkpoint_tree(frepo, state))
        if restored is not None:
            state = from_checkpoint_tree(frepo, restored.state, state)
            first = restored.step
    rows = over(mesh, (POOL, DATA))
    everywhere = jax.jit(lambda x: x, out_shardings=over(mesh))
    found, resets = [], 0
    for number in range(first, case.get("steps", STEPS)):
        rng = np.random.default_rng(100 + number)
        host = Batch(
            rng.normal(size=(count * BATCH, SIDE, SIDE, 3)).astype(dtype),
            rng.integers(0, CLASSES, count * BATCH).astype(np.int32),
        )
        batch = jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, rows, lambda index: x[index]), host
        )
        before = np.asarray(everywhere(state.algorithm.pool.age))
        state, metrics = step(state, batch)
        after = np.asarray(everywhere(state.algorithm.pool.age))
        resets += int(np.sum(after < before))
        # Frozen nets have no online loss.
        shown = {"online_loss": 1.0} | metrics
        found.append([float(shown[k]) for k in ("loss", "online_loss", "ridge_raised")])
    if checkpointer is not None:
        checkpointer.save(number + 1, checkpoint_tree(frepo, state), {})
        checkpointer.close()
    return {"losses": found, "resets": resets}


def main():
    if len(sys.argv) > 2:
        address, count, own = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        jax.distributed.initialize(address, count, own, initialization_timeout=60)
    for group, cases in json.loads(sys.argv[1]).items():
        results = []
        for case in cases:
            with jax.enable_x64(case.get("dtype", "float64") == "float64"):
                results.append(losses(case))
        # Gloo writes on standard output too: results have a mark.
        print("RESULT " + json.dumps({group: results}), flush=True)


if __name__ == "__main__":
    main()
