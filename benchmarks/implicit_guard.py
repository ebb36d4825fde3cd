"""Which of RCIG's solves are used, against dense solves of the same systems.

    python benchmarks/implicit_guard.py

The digits at 1 and 4 images per class, fresh nets of width 16. Each system for tau and v is solved
by `distill.conjugate_gradients` with few to many iterations, in float64 and in float32, and exactly
in float64. The error is `‖x - x*‖_A / ‖x*‖_A`: with 1 or more a solution is no better than 0. Then
the same with a broken matrix: some eigenvalues of `(K + rho I)⁻¹` are negative, or it has errors
without symmetry.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from implicit_solves import System, systems
from jax.sharding import PartitionSpec as P

from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.distill.conjugate_gradients import Solved, conjugate_gradients, is_reliable
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import single_device_mesh

ITERATIONS = (1, 2, 3, 4, 8, 16)
TARGETS = 256
NETS = [(depth, activation) for depth in (2, 3) for activation in ("relu", "softplus")]


class Tried(NamedTuple):
    """One solve: its error, its residual in the 2-norm, and whether it is used."""

    error: float
    residual: float
    used: bool


@jax.jit
@partial(jax.shard_map, mesh=single_device_mesh(), in_specs=P(), out_specs=P(), check_vma=False)
def solve(j: jax.Array, s: jax.Array, right: jax.Array, steps: jax.Array) -> tuple[Solved, Any]:
    """As `distill.implicit` solves: the energy is computed from its definition."""

    def weigh(z: jax.Array) -> jax.Array:
        return (s @ z.reshape(len(s), -1)).reshape(-1)

    found = conjugate_gradients(lambda x: x + j.T @ weigh(j @ x), right, steps, 1e-6, "gpu")
    j_x = j @ found.x
    energy = 0.5 * (found.x @ found.x + j_x @ weigh(j_x)) - right @ found.x
    return found, is_reliable(found, energy, 1.0)


def tried(system: System, s: Any, right: Any, exact: Any, dtype: Any) -> Iterator[Tried]:
    """Solves with all numbers of iterations; `s` replaces the S of the system."""
    for steps in ITERATIONS:
        found, used = solve(*(jnp.asarray(x, dtype) for x in (system.j, s, right)), steps)
        yield Tried(system.error(found.x, exact), float(found.residual), bool(used))


def all_systems() -> Iterator[tuple[System, jax.Array, jax.Array]]:
    """Matrix, right-hand side and solution for each size, net and problem."""
    train = load_dataset(DataConfig("digits", batch=TARGETS)).train
    pixels, classes = everything(train).astype(np.float64), np.asarray(train.labels)
    pixels = (pixels - pixels.mean()) / pixels.std()
    rng = np.random.default_rng(0)
    for ipc in (1, 4):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(classes == k), ipc, replace=False) for k in range(10)]
        )
        drawn = rng.choice(len(classes), TARGETS, replace=False)
        target = jnp.asarray(pixels[drawn]), jnp.asarray(classes[drawn])
        labels = jax.nn.one_hot(classes[rows], 10, dtype=jnp.float64) - 0.1
        for depth, activation in NETS:
            net = ConvNet(10, width=16, depth=depth, norm="none", activation=activation)
            params = jax.jit(net.init)(jax.random.key(0), jnp.asarray(pixels[rows]))["params"]
            params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
            yield from systems(net, params, jnp.asarray(pixels[rows]), labels, target).values()


def indefinite(s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a fifth of the eigenvalues negated."""
    values, vectors = np.linalg.eigh(s)
    values *= np.where(rng.random(len(values)) < 0.2, -1, 1)
    return vectors * values @ vectors.T


def noisy(s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With errors of the size of its entries."""
    return s + rng.normal(size=s.shape) * np.abs(s).max() / len(s)


def main() -> None:
    """Prints a row for each kind of arithmetic and matrix."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(1)
    found: dict[str, list[Tried]] = {}
    for system, right, exact in all_systems():
        s = np.asarray(system.s)
        for name, used, dtype in (
            ("float64", s, np.float64),
            ("float32", s, np.float32),
            ("negative eigenvalues", indefinite(s, rng), np.float64),
            ("not symmetric", noisy(s, rng), np.float64),
        ):
            found.setdefault(name, []).extend(tried(system, used, right, exact, dtype))
    print("| matrix | error | solves | used | with a residual below 1 |")
    print("|---|---|---|---|---|")
    for name, solves in found.items():
        for label, good in (("below 1", True), ("1 or more", False)):
            of = [one for one in solves if (one.error < 1) == good]
            if of:
                small = sum(one.residual < 1 for one in of)
                print(f"| {name} | {label} | {len(of)} | {sum(t.used for t in of)} | {small} |")


if __name__ == "__main__":
    main()
