"""Accuracy of the float32 regression against float64, on features of real images.

    python benchmarks/regression_accuracy.py

Handwritten digits through a ConvNet of width 16 and depth 2 (d = 288), fresh and trained for 200
steps, N/d from 0.1 to 2, ridge from 1e-6 to 1e-1, dual and primal. Each cell: largest error of the
prediction and of the gradient with respect to the features, relative to the largest value, against
float64 at the ridge in force; a star where the guard raised the ridge.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.dataset import DataConfig, load_dataset
from frepo_scale.data.types import everything
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.augment import AugmentConfig
from frepo_scale.evaluate.fit import FitConfig, Fitter
from frepo_scale.models.convnet import ConvNet
from frepo_scale.ops.preemption import Preemption
from frepo_scale.regression.ridge import RidgeConfig, adjoint, solve

RATIOS = (0.1, 0.5, 0.75, 1.0, 1.25, 2.0)
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
TARGETS = 128


def features() -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray, np.ndarray]:
    """By net: features of target and synthetic images; then labels of each."""
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

    nets = {"fresh": fresh, "trained": trained}
    found = {name: (of(params, targets), of(params, images)) for name, params in nets.items()}
    return found, labels, scaled_labels(data.test.labels[:TARGETS], 10)


@cache
def value_and_gradient(config: RidgeConfig) -> Callable[..., Any]:
    """`(f_t, f_s, y_s, y_t) -> (prediction, gradient of the loss, ridge in force, raised)`."""

    def function(f_t: jax.Array, f_s: jax.Array, y_s: jax.Array, y_t: jax.Array) -> Any:
        solution = solve(f_s, y_s, len(f_s), config)
        pred = jnp.matmul(f_t, solution.w_dK.astype(f_s.dtype), precision="highest")
        slope = jnp.matmul(f_t.T, pred - y_t, precision="highest") / len(f_t)
        gradient, _ = adjoint(solution, slope, len(f_s), config)
        return pred, gradient, solution.ridge, solution.raised

    return jax.jit(function)


def error(ours: Any, truth: Any) -> float:
    """Largest difference relative to the largest value."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    return float(np.abs(ours - truth).max() / np.abs(truth).max())


def cell(form: str, ridge: float, arguments: tuple[np.ndarray, ...]) -> tuple[float, float, bool]:
    """Errors of prediction and gradient, and whether the guard raised the ridge."""
    pred, gradient, used, raised = value_and_gradient(RidgeConfig(ridge, form, "float32"))(
        *arguments
    )
    in_force = float(used) if bool(raised) else ridge
    truth = value_and_gradient(RidgeConfig(in_force, form, "float64"))(*arguments)
    return error(pred, truth[0]), error(gradient, truth[1]), bool(raised)


def main() -> None:
    """Prints the table as Markdown."""
    found, labels, target_labels = features()
    print("| net | N/d | form | " + " | ".join(f"{r:.0e}" for r in RIDGES) + " |")
    print("|---|---|---|" + "---|" * len(RIDGES))
    for name, (f_t, f_s) in found.items():
        for ratio in RATIOS:
            rows = int(ratio * f_s.shape[1])
            arguments = (f_t, f_s[:rows], labels[:rows], target_labels)
            for form in ("dual", "primal"):
                cells = [cell(form, ridge, arguments) for ridge in RIDGES]
                texts = [f"{p:.0e} {g:.0e}{'*' if raised else ''}" for p, g, raised in cells]
                print(f"| {name} | {ratio} | {form} | " + " | ".join(texts) + " |", flush=True)


if __name__ == "__main__":
    main()
