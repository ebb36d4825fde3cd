"""Accuracy of the regression by precision and factorisation, on features of real images.

    python benchmarks/regression_accuracy.py
    JAX_NUM_CPU_DEVICES=4 python benchmarks/regression_accuracy.py \
        --ways float32:library-rows,float32:spread

Handwritten digits through a ConvNet of width 16 and depth 2 (d = 288), fresh and trained for 200
steps; rows of 0.1 to 2 times d, close around d; ridge from 1e-6 to 1e-1; the form that "auto"
takes. Each cell: largest error of the prediction and of the gradient with respect to the features,
relative to the largest value, against LAPACK in float64 at the ridge in force; a star where the
guard raised the ridge. A way is a precision and a factorisation: "library" or "blocked" on one
device; "library-rows" with the rows of the regression over all devices, "spread" with the blocked
factorisation over them too.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.data.dataset import load_dataset
from frepo_scale.data.settings import DataConfig
from frepo_scale.data.types import everything
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.fit import FitConfig, Fitter
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.preemption import Preemption
from frepo_scale.parallel.mesh import DATA, MeshConfig, build_mesh
from frepo_scale.regression.ridge import RidgeConfig, adjoint, solve

RATIOS = (0.1, 0.5, 0.75, 0.9, 0.99, 1.0, 1 + 1 / 288, 1.01, 1.05, 1.1, 1.25, 1.5, 2.0)
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WAYS = ("float32:library", "float32:blocked", "float64:library", "float64:blocked")
TARGETS, BLOCK = 128, 64


class Features(NamedTuple):
    """Of one net: target features (B, d), all training features (n, d), labels of both."""

    target: np.ndarray
    training: np.ndarray
    labels: np.ndarray
    target_labels: np.ndarray


class Cell(NamedTuple):
    """One entry of the table: the largest relative errors, and what the guard did."""

    prediction: float
    gradient: float
    ridge: float
    raised: bool


@dataclass(frozen=True)
class TracedRidge(RidgeConfig):
    """A configuration whose ridge is an argument of the compiled function, so not checked."""

    def __post_init__(self) -> None:
        """Accepts a traced ridge."""


def features() -> dict[str, Features]:
    """By net."""
    data = load_dataset(DataConfig("digits", batch=10))
    inputs = data.fit_preprocessing().apply
    images, targets = inputs(everything(data.train)), inputs(data.test.at(np.arange(TARGETS)))
    labels = scaled_labels(data.train.labels, 10)
    module = ConvNet(num_classes=10, width=16, depth=2, norm="none")
    fresh = module.init(jax.random.key(0), images[:1])["params"]
    fit = FitConfig(200, 256, 3e-3, True, AugmentConfig(flip=False))
    fitter = Fitter(module, fit, len(images), 0)
    both = DistilledSet(jnp.asarray(images), jnp.asarray(labels))
    trained = fitter.fit(both, 0, Preemption(), lambda steps: None).params

    def of(params: Any, x: np.ndarray) -> np.ndarray:
        outputs: Any = module.apply({"params": params}, x)
        return np.asarray(outputs[1])

    target_labels = scaled_labels(data.test.labels[:TARGETS], 10)
    return {
        name: Features(of(params, targets), of(params, images), labels, target_labels)
        for name, params in (("fresh", fresh), ("trained", trained))
    }


@cache
def value_and_gradient(form: str, way: str) -> Callable[..., Any]:
    """`(f_t, f_s, y_s, y_t, rows, ridge) -> (prediction, gradient, ridge in force, raised)`.

    Rows of `f_s` and `y_s` from `rows` on are zero: rows and ridge are traced, so that one
    compilation serves the whole table.
    """
    precision, factorisation = way.split(":")
    several = factorisation in ("library-rows", "spread")
    mesh = build_mesh(MeshConfig(), jax.devices() if several else jax.devices()[:1])
    kind = "library" if factorisation.startswith("library") else "blocked"
    axis = DATA if several else None

    def function(
        f_t: jax.Array, f_s: jax.Array, y_s: jax.Array, y_t: jax.Array, rows: Any, ridge: Any
    ) -> Any:
        config = TracedRidge(ridge, form, precision, kind, BLOCK, distribute_above=0)
        solution = solve(f_s, y_s, rows, config, axis)
        pred = jnp.matmul(f_t, solution.w_dK.astype(f_s.dtype), precision="highest")
        slope = jnp.matmul(f_t.T, pred - y_t, precision="highest") / len(f_t)
        gradient, _, _ = adjoint(solution, slope, rows, config, axis)
        return pred, gradient, solution.ridge.astype(f_s.dtype), solution.raised

    rows_of = P(DATA)
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(P(), rows_of, rows_of, P(), P(), P()),
        out_specs=(P(), rows_of, P(), P()),
        check_vma=False,
    )
    return jax.jit(mapped)


def error(ours: Any, truth: Any) -> float:
    """Largest difference relative to the largest value; NaN counts as inf."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    found = float(np.abs(ours - truth).max() / np.abs(truth).max())
    return found if np.isfinite(found) else float("inf")


def cell(net: Features, rows: int, ridge: float, way: str, form: str = "auto") -> Cell:
    """Accuracy for the first `rows` training images, at most twice as many as features."""
    dim = net.training.shape[1]
    if form == "auto":
        form = "dual" if rows <= dim else "primal"
    # The same array size for all: a multiple of any number of devices.
    size = -(-2 * dim // 64) * 64

    def padded(x: np.ndarray) -> np.ndarray:
        return np.pad(x[:rows], ((0, size - rows), (0, 0)))

    arguments = (net.target, padded(net.training), padded(net.labels), net.target_labels, rows)
    given = np.float32(ridge)
    pred, gradient, in_force, raised = value_and_gradient(form, way)(*arguments, given)
    used = np.float32(in_force) if bool(raised) else given
    truth = value_and_gradient(form, "float64:library")(*arguments, used)
    return Cell(error(pred, truth[0]), error(gradient, truth[1]), float(used), bool(raised))


def table(found: dict[str, Features], way: str) -> Iterator[tuple[str, float, list[Cell]]]:
    """(net, rows / d, a cell for each ridge), row by row."""
    for name, net in found.items():
        for ratio in RATIOS:
            rows = round(ratio * net.training.shape[1])
            yield name, ratio, [cell(net, rows, ridge, way) for ridge in RIDGES]


def main() -> None:
    """Prints the table as Markdown."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--ways", default=",".join(WAYS))
    found = features()
    print("| way | net | rows / d | " + " | ".join(f"{r:.0e}" for r in RIDGES) + " |")
    print("|---|---|---|" + "---|" * len(RIDGES))
    for way in options.parse_args().ways.split(","):
        for name, ratio, cells in table(found, way):
            texts = [f"{c.prediction:.0e} {c.gradient:.0e}{'*' if c.raised else ''}" for c in cells]
            print(f"| {way} | {name} | {ratio:.4g} | " + " | ".join(texts) + " |", flush=True)


if __name__ == "__main__":
    main()
