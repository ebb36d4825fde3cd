"""Steps per second, share of the matrix rate, and peak memory of the outer step on one accelerator.

    python benchmarks/gpu.py            # needs jax, flax, optax and numpy only

Random pixels at the shapes of CIFAR-10 IPC 10, CIFAR-100 IPC 10, ImageNet-1K (64 px) IPC 2 and
IPC 10, in float32 and bfloat16, in one run. The share is the compiled step's own FLOP count per
second against the bfloat16 matrix rate measured in the same run. `--smoke` runs one tiny case, to
see that it works.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.types import Batch, DistilledSet
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.distill.state import initial_state
from frepo_scale.distill.step import OuterStep, make_outer_step
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh
from frepo_scale.regression.ridge import RidgeConfig

SECONDS = 8.0  # per case


@dataclass(frozen=True)
class Case:
    """One shape of the outer step."""

    name: str
    side: int
    depth: int
    classes: int
    ipc: int
    flip: bool
    width: int = 128
    batch: int = 1024


CASES = (
    Case("CIFAR-10 IPC 10", 32, 3, 10, 10, True),
    Case("CIFAR-100 IPC 10", 32, 3, 100, 10, False),
    Case("ImageNet-1K IPC 2", 64, 4, 1000, 2, False),
    Case("ImageNet-1K IPC 10", 64, 4, 1000, 10, False),
)
SMOKE = (Case("smoke", 16, 2, 5, 2, True, width=4, batch=16),)


def matrix_rate(size: int) -> float:
    """FLOP/s of a bfloat16 matrix product of this size."""
    a = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < 1.0:
        for _ in range(5):
            out = product(a)
        out.block_until_ready()
        count += 5
    return 2 * size**3 * count / (time.perf_counter() - began)


def measure(case: Case, dtype: str) -> tuple[float, float, float]:
    """Steps per second, FLOP per step and GiB of device memory at the peak."""
    mesh = single_device_mesh()
    module = ConvNet(num_classes=case.classes, width=case.width, depth=case.depth)
    config = DistillConfig(
        ipc=case.ipc, flip=case.flip, feature_dtype=dtype, chunk=1000 if case.side == 64 else 2000
    )
    size = case.classes * case.ipc
    rng = np.random.default_rng(0)
    shape = (case.side, case.side, 3)
    start = DistilledSet(
        rng.normal(size=(size, *shape)).astype(np.float32),
        np.repeat(np.eye(case.classes, dtype=np.float32), case.ipc, axis=0) - 1 / case.classes,
    )
    pool = PoolConfig()
    state = initial_state(module, config, pool, start, mesh)
    ridge = RidgeConfig(1e-6 if size <= 2000 else 1e-1)
    step: Any = make_outer_step(
        OuterStep(module, config, pool, ridge, mesh, size, case.batch), state
    )
    batch = Batch(
        jnp.asarray(rng.normal(size=(case.batch, *shape)), jnp.float32),
        jnp.asarray(rng.integers(0, case.classes, case.batch), jnp.int32),
    )
    compiled = step.lower(state, batch).compile()
    flops = float((compiled.cost_analysis() or {}).get("flops", float("nan")))
    memory = compiled.memory_analysis()
    peak = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30
    state, metrics = compiled(state, batch)
    metrics["loss"].block_until_ready()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        state, metrics = compiled(state, batch)
        metrics["loss"].block_until_ready()
        count += 1
    return count / (time.perf_counter() - began), flops, peak


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--smoke", action="store_true", help="one tiny case")
    smoke = options.parse_args().smoke
    device = jax.devices()[0]
    rate = matrix_rate(512 if smoke else 8192)
    print(f"{device.device_kind}: {rate / 1e12:.2f} TFLOP/s in bfloat16 matrix products")
    print(f"{'case':20} {'dtype':9} {'steps/s':>8} {'share':>7} {'GiB':>7}")
    for case in SMOKE if smoke else CASES:
        for dtype in ("float32", "bfloat16"):
            speed, flops, peak = measure(case, dtype)
            share = speed * flops / rate
            print(f"{case.name:20} {dtype:9} {speed:8.2f} {share:7.1%} {peak:7.2f}", flush=True)


if __name__ == "__main__":
    main()
