"""The evaluation `linear_probe`: linear classifiers on the features of the nets of `POOL_WEIGHTS`.

Each labelled set gives one linear map per net, the exact solution of a ridge regression from
features to labels, in float64 on the host:

  W = argmin sum over the set of ‖f(x) W - y‖² + rho ‖W‖²,   rho = r tr(FᵀF) / n

There is no bias, as in the outer step (docs/algorithm.md section 4), and no learning rate, length
or draw that could suit one set better than another. r is the value of `RIDGES` with the best
accuracy on the held-out images, for each net and set; test images take no part in the choice.
Images are not augmented.

Legend: n images of a set, b of them at a time, d features, K classes, R ridges.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from frepo_scale.core.errors import InputError
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows
from frepo_scale.distill.synthetic import scaled_labels
from frepo_scale.evaluate.baselines import (
    check_held_out,
    has_hard_labels,
    named_set,
    random_real_images,
    with_hard_labels,
)
from frepo_scale.evaluate.encoders import Encoder
from frepo_scale.evaluate.evaluation import EvaluationContext, Measurement, Task
from frepo_scale.evaluate.protocol import score

RIDGES = tuple(10.0**power for power in range(-6, 2))
_AT_ONCE = 500  # images


class _Labelled(NamedTuple):
    """A set of images that can be read in parts; labels (n, K)."""

    images: Rows | np.ndarray
    labels: np.ndarray

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for lo in range(0, len(self.labels), _AT_ONCE):
            rows = np.arange(lo, min(lo + _AT_ONCE, len(self.labels)))
            images = self.images
            found = images[rows] if isinstance(images, np.ndarray) else images.at(rows)
            yield found, self.labels[rows]


@dataclass(frozen=True)
class LinearProbe:
    """Test accuracy of ridge regression on frozen features, fitted to each set.

    Attributes:
      title: the heading of the table.
    """

    title: str = "test accuracy of a linear probe on the features of POOL_WEIGHTS"

    def check(self, task: Task) -> None:
        """Raises InputError without nets or held-out images, or if a file does not suit the net."""
        advice = "leave 'linear_probe' out of EVALUATIONS"
        if task.encoders is None:
            raise InputError(
                "EVALUATIONS: 'linear_probe' without POOL_WEIGHTS",
                "files of the nets whose features it uses",
                """give them with --gin.POOL_WEIGHTS="['net.safetensors']", or """ + advice,
            )
        check_held_out(task, "linear_probe", advice)
        task.encoders.load()

    def run(self, context: EvaluationContext) -> Iterator[Measurement]:
        """Distilled, with hard labels, random real images, with `FULL_DATA` all training images."""
        if context.encoders is None:
            raise ValueError("linear_probe needs the nets of POOL_WEIGHTS")
        probes = [_Probe(encoder, context) for encoder in context.encoders.load()]
        for key, what, draws in _sets(context):
            found = [
                # The paths are no part of what a run depends on, so the file's content is named.
                context.stored(f"{key} {probe.sha256}", number, partial(probe.measure, labelled))
                for probe in probes
                for number, labelled in enumerate(draws)
            ]
            accuracies = [(top1, top5) for top1, top5, _ in found]
            ridges = sorted({ridge for _, _, ridge in found})
            yield Measurement(
                key, what, score(accuracies, context.real.num_classes), {"ridges": ridges}
            )


def _sets(context: EvaluationContext) -> Iterator[tuple[str, str, list[_Labelled]]]:
    """Key, name and draws of each set."""
    yield "distilled", named_set(context), [_Labelled(*context.distilled)]
    if not has_hard_labels(context):
        hard = with_hard_labels(context)
        yield "distilled_hard", "distilled images, hard labels", [_Labelled(*hard)]
    random: list[DistilledSet] = [
        random_real_images(context, draw) for draw in range(context.config.nets)
    ]
    yield "random_real", "random real images", [_Labelled(*one) for one in random]
    if context.config.full_data:
        train = context.real.train
        labels = scaled_labels(np.asarray(train.labels), context.real.num_classes)
        yield "full_data", "full training set", [_Labelled(train, labels)]


class _Probe:
    """Linear maps on the features of one net."""

    def __init__(self, encoder: Encoder, context: EvaluationContext) -> None:
        """Puts the net on the device."""
        module, self._context, self.sha256 = encoder.module, context, encoder.sha256
        self._path = encoder.path
        self._variables = jax.tree.map(jnp.asarray, encoder.variables)

        def features(variables: dict[str, Any], images: jax.Array) -> jax.Array:
            outputs: Any = module.apply(variables, images, train=False)
            return jnp.asarray(outputs[1])

        def ranks(
            variables: dict[str, Any], maps: jax.Array, images: jax.Array, labels: jax.Array
        ) -> jax.Array:
            """The number of classes before the true one, (R, b)."""
            f_bd = features(variables, images)
            logits = jnp.einsum("bd,rdk->rbk", f_bd, maps, precision="highest")
            own = jnp.take_along_axis(logits, labels[None, :, None], axis=-1)
            earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
            rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
            # A NaN logit compares false with everything and would count as correct.
            return jnp.where(jnp.isfinite(logits).all(-1), rank, logits.shape[-1])

        self._features, self._ranks = jax.jit(features), jax.jit(ranks)

    def measure(self, labelled: _Labelled) -> tuple[float, float, float]:
        """Top-1 and top-5 test accuracy with the best ridge on held-out images, and that ridge."""
        held_out, test = self._context.real.held_out, self._context.real.test
        if held_out is None:
            raise ValueError("linear_probe needs held-out images")
        maps = self._maps(labelled)
        best = int(np.argmax(self._tested(maps, held_out)[:, 0]))
        top1, top5 = self._tested(maps[best : best + 1], test)[0]
        return float(top1), float(top5), RIDGES[best]

    def _tested(self, maps: np.ndarray, rows: Rows) -> np.ndarray:
        """Top-1 and top-5 accuracy of each of R maps: (R, 2)."""
        hits, on_device = np.zeros((len(maps), 2)), jnp.asarray(maps, jnp.float32)
        size = min(_AT_ONCE, len(rows))
        for lo in range(0, len(rows), size):
            self._context.evaluator.poll()
            chosen = np.arange(lo, min(lo + size, len(rows)))
            missing = size - len(chosen)
            images = np.pad(rows.at(chosen), [(0, missing)] + [(0, 0)] * 3)
            labels = np.pad(np.asarray(rows.labels)[chosen], (0, missing))
            rank = np.asarray(self._ranks(self._variables, on_device, images, labels))
            rank = rank[:, : len(chosen)]
            hits += np.stack([(rank == 0).sum(1), (rank < 5).sum(1)], axis=1)
        return hits / len(rows)

    def _maps(self, labelled: _Labelled) -> np.ndarray:
        """W for each of `RIDGES`: float64 (R, d, K), in the dual form for few images."""
        count, features = len(labelled.labels), []
        gram = right = None
        for images, labels in labelled.parts():
            self._context.evaluator.poll()
            f_bd = np.asarray(self._features(self._variables, images), np.float64)
            if not np.isfinite(f_bd).all():
                raise InputError(
                    f"POOL_WEIGHTS: {self._path} gives features that are not finite",
                    "a net that gives finite features for all images",
                    "give another file, or leave 'linear_probe' out of EVALUATIONS",
                )
            if count <= f_bd.shape[1]:
                features.append(f_bd)
                continue
            y_bK = labels.astype(np.float64)
            gram = f_bd.T @ f_bd + (0.0 if gram is None else gram)
            right = f_bd.T @ y_bK + (0.0 if right is None else right)
        back = None
        if features:
            f_nd = np.concatenate(features)
            gram, right, back = f_nd @ f_nd.T, labelled.labels.astype(np.float64), f_nd.T
        assert gram is not None and right is not None
        unit = float(np.trace(gram)) / count or 1.0  # all features 0: any ridge, and the map is 0
        found = []
        for ridge in RIDGES:
            factor = cho_factor(gram + ridge * unit * np.eye(len(gram)), lower=True)
            solved = cho_solve(factor, right)
            found.append(solved if back is None else back @ solved)
        return np.stack(found)
