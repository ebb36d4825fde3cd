"""Library and blocked factorisation: time to factorise and solve, in one run, as ratios.

    python benchmarks/cholesky.py
    JAX_NUM_CPU_DEVICES=8 python benchmarks/cholesky.py --sizes 1024,2048
    JAX_NUM_CPU_DEVICES=64 python benchmarks/cholesky.py --sizes 5000,10000 --count

For n x n systems with 100 right-hand sides in float32 at the highest matrix precision: the
library's Cholesky, the blocked one on one device, and spread over all devices. Median of the
rounds, alternating; then the largest error of the solution against float64, relative to the
library's own.

With `--count` nothing is run: for each n in the dual and in the primal form, how a regression is
spread over all devices, the MB of its matrix on each device, and the operations of a factorisation
on each, by the compiler's count for one panel times the panels.
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
from frepo_scale.regression.ridge import RidgeConfig

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


def counted(n: int, form: str, devices: list[jax.Device]) -> str:
    """One line of the table of `--count`."""
    config = RidgeConfig(factorisation="blocked", distribute_above=0)
    spread = config.spread(n, DATA, len(devices), dual=form == "dual")
    assert spread is not None
    system = System(n, spread)

    def local(matrix: jax.Array) -> jax.Array:
        return system.factorise(system.local(matrix))

    mapped = jax.shard_map(
        local,
        mesh=build_mesh(MeshConfig(), devices),
        in_specs=P(),
        out_specs=P(DATA),
        check_vma=False,
    )
    matrix = jax.ShapeDtypeStruct((n, system.size), jnp.float32)
    panel = (jax.jit(mapped).lower(matrix).compile().cost_analysis() or {})["flops"]
    panels = system.size // spread.block
    rows = spread.count(system.size) * spread.block
    return (
        f"{n:6} {form:>7} {len(devices):>8} {spread.block:>6} {panels:>7} {rows:>6}"
        f" {system.size:>8} {4 * rows * system.size / 1e6:>8.1f} {panels * panel / 1e9:>9.1f}"
    )


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sizes", default="1024,2048,4096")
    options.add_argument("--count", action="store_true", help="operations, nothing is run")
    given = options.parse_args()
    sizes = list(map(int, given.sizes.split(",")))
    if given.count:
        print("     n    form  devices  block  panels   rows  columns       MB    GFLOP")
        for n in sizes:
            for form in ("dual", "primal"):
                print(counted(n, form, jax.devices()), flush=True)
        return
    compare(sizes)


def compare(sizes: list[int]) -> None:
    """Prints times and errors relative to the library's."""
    devices = jax.devices()
    count = len(devices)
    print(f"{count} x {devices[0].device_kind}; seconds, then ratios to the library's")
    print(
        f"{'n':>6} {'library':>9} {'blocked':>8} {f'on {count}':>8} {'error':>7} {f'on {count}':>7}"
    )
    for n in sizes:
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
