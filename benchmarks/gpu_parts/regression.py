"""Part 2, right: the regression's prediction and gradients against NumPy in float64."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np

from frepo_scale.models.convnet import ConvNet
from gpu_parts.compare import error
from gpu_parts.report import Report
from gpu_parts.step_case import regression_value

RATIOS = (0.5, 0.9, 1.0, 1.05, 1.25, 2.0)  # rows / d
RIDGES = (1e-6, 1e-3, 1e-1)
PRECISIONS = ("auto", "float32")
Given = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
# Of "auto". Rows of "float32" are for information: where that raises the ridge, the difference from
# the ridge asked for is in their errors.
BOUND = 1e-4


def reference(
    f_rd: np.ndarray, y_rK: np.ndarray, f_bd: np.ndarray, y_bK: np.ndarray, ridge: float
) -> tuple[np.ndarray, ...]:
    """`regression_value` in NumPy float64, by the dual form and its adjoint."""
    f, y, t, targets = (np.asarray(x, np.float64) for x in (f_rd, y_rK, f_bd, y_bK))
    rho = ridge * np.sum(f * f) / len(f)
    matrix = f @ f.T + rho * np.eye(len(f))
    alpha = np.linalg.solve(matrix, y)
    weights = f.T @ alpha
    prediction = t @ weights
    slope = t.T @ (prediction - targets) / len(t)
    beta = np.linalg.solve(matrix, f @ slope)
    d_rho = -np.sum(beta * alpha)
    d_f = alpha @ (slope - f.T @ beta).T - beta @ weights.T + d_rho * 2 * ridge / len(f) * f
    return prediction, d_f, beta


def feature_sets(smoke: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, features of target and synthetic images, and labels of all, targets first."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    inputs = (pixels.reshape(-1, 8, 8, 1) / 16 - 0.3).astype(np.float32)
    module = ConvNet(num_classes=10, width=4 if smoke else 16, depth=2, norm="none")
    with jax.default_device(jax.devices("cpu")[0]):
        params: Any = module.init(jax.random.key(0), inputs[:1])
        digits = np.asarray(jax.jit(module.apply)(params, inputs)[1])
    labels = np.eye(10, dtype=np.float32)[classes] - 0.1
    yield "digits, fresh net", digits[:128], digits[128:], labels
    if smoke:
        return
    rng = np.random.default_rng(0)
    dim, images = 1024, 128 + 2 * 1024
    spectrum = np.arange(1, dim + 1) ** -1.0  # as features of images fall off, roughly
    decaying = (rng.normal(size=(images, dim)) * spectrum) @ rng.normal(size=(dim, dim))
    decaying = np.maximum(decaying, 0).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, images)] - 0.1
    yield "random, d 1024", decaying[:128], decaying[128:], labels


def error_table(report: Report) -> None:
    """The error table; programs compile side by side, and every row is written at once."""
    smoke = report.options.smoke
    compilers = ThreadPoolExecutor(8)
    for name, f_bd, pool, labels in feature_sets(smoke):
        if not report.has(5.0, f"regression of {name}"):
            continue
        y_bK, y_pool = labels[: len(f_bd)], labels[len(f_bd) :]
        jobs = []
        for ratio in RATIOS[1:3] if smoke else RATIOS:
            rows = int(ratio * pool.shape[1])
            arguments = (pool[:rows], y_pool[:rows], f_bd, y_bK)
            for ridge in RIDGES[:1] if smoke else RIDGES:
                for precision in PRECISIONS:
                    job = compilers.submit(_cell, arguments, ridge, precision)
                    jobs.append((ratio, ridge, precision, job))
        for ratio, ridge, precision, job in jobs:
            try:
                errors = job.result(timeout=max(0.0, report.left() - 1.0))
            except Exception as failure:  # a time-out among them
                errors = {"failure": f"{type(failure).__name__}: {failure}"[:300], "ok": False}
            cell = {"features": name, "rows/d": ratio, "ridge": ridge, "precision": precision}
            report.put(regression=[*report.found["regression"], cell | errors])


def _cell(arguments: Given, ridge: float, precision: str) -> dict[str, Any]:
    """Errors of the prediction and of the gradients at one ridge and precision."""
    value = partial(regression_value, ridge=ridge, precision=precision)
    ours = jax.jit(value)(*arguments)
    truth = reference(*arguments, ridge)
    errors = [error(x, y) for x, y in zip(ours, truth, strict=True)]
    found: dict[str, Any] = dict(zip(("prediction", "d features", "d labels"), errors, strict=True))
    if precision == "auto":
        found |= {"bound": BOUND, "ok": max(errors) <= BOUND}
    return found
