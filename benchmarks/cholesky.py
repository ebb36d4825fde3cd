"""Library and blocked factorisation: time to factorise and solve, in one run, as ratios.

    python benchmarks/cholesky.py
    JAX_NUM_CPU_DEVICES=8 python benchmarks/cholesky.py --sizes 1024,2048

For n x n systems with 100 right-hand sides in float32 at the highest matrix precision: the
library's Cholesky, the blocked one on one device, and spread over all devices. Median of the
rounds, alternating; then the largest error of the solution against float64, relative to the
library's own.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from frepo_scale.parallel.mesh import DATA, MeshConfig, build_mesh
from frepo_scale.regression.cholesky import Spread
from frepo_scale.regression.factorisation import System

ROUNDS, RIGHT = 5, 100


def solver(spread: Spread | None, devices: list[jax.Device], n: int) -> Callable[..., jax.Array]:
    """`(matrix, right) -> solution` on the given devices."""
    system = System(n, spread)
    mesh = build_mesh(MeshConfig(), devices)

    def local(matrix: jax.Array, right: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            wide = jnp.pad(matrix, ((0, 0), (0, system.size - n)))
            factor = system.factorise(system.shifted(system.local(wide), jnp.float32(0)))
            return system.solve(factor, right)

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)
    )


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sizes", default="1024,2048,4096")
    devices = jax.devices()
    count = len(devices)
    print(f"{count} x {devices[0].device_kind}; seconds, then ratios to the library's")
    print(
        f"{'n':>6} {'library':>9} {'blocked':>8} {f'on {count}':>8} {'error':>7} {f'on {count}':>7}"
    )
    for n in map(int, options.parse_args().sizes.split(",")):
        rng = np.random.default_rng(0)
        f = rng.normal(size=(n, n)).astype(np.float32)
        matrix = (f @ f.T / n + 0.01 * np.eye(n)).astype(np.float32)
        right = rng.normal(size=(n, RIGHT)).astype(np.float32)
        truth = np.linalg.solve(matrix.astype(np.float64), right)
        solvers = [
            solver(None, devices[:1], n),
            solver(Spread(), devices[:1], n),
            solver(Spread(DATA, count), devices, n),
        ]
        errors = [float(np.abs(np.asarray(s(matrix, right)) - truth).max()) for s in solvers]
        times: list[list[float]] = [[] for _ in solvers]
        for _ in range(ROUNDS):
            for kept, run in zip(times, solvers, strict=True):
                began = time.perf_counter()
                run(matrix, right).block_until_ready()
                kept.append(time.perf_counter() - began)
        library, blocked, spread = (float(np.median(kept)) for kept in times)
        print(
            f"{n:6} {library:9.3f} {blocked / library:8.2f} {spread / library:8.2f} "
            f"{errors[1] / errors[0]:7.2f} {errors[2] / errors[0]:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
