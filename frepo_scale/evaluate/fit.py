"""Training one fresh net on a small labelled set and counting what it gets right.

Source: ALGORITHM.md section 5. Legend: N training images, b batch, n test images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics

from frepo_scale.core.keys import Purpose, key_for
from frepo_scale.core.types import DistilledSet
from frepo_scale.data.types import Rows
from frepo_scale.evaluate.augment import AugmentConfig, augment
from frepo_scale.ops.preemption import Preemption
from frepo_scale.regression.loss import half_squared_errors

WARM_UP = 500
FINAL_LEARNING_RATE = 0.01
_TEST_BATCH = 500
_POLL_EVERY = 20  # steps between looks at the stop flag; also bounds what is queued on the device
TOP5_FROM = 100  # classes from which on top-5 accuracy is reported


@dataclass(frozen=True)
class FitConfig:
    """How a fresh net is trained.

    Attributes:
      steps: Adam steps.
      batch: at most this many images per step.
      learning_rate: Adam's.
      constant: whether the learning rate stays constant (probes) or warms up over
        min(500, steps / 2) and decays by a cosine to 1 % (final evaluation).
      augment: the augmentation.
    """

    steps: int
    batch: int
    learning_rate: float
    constant: bool
    augment: AugmentConfig

    def optimiser(self) -> optax.GradientTransformation:
        """Adam on the schedule."""
        if self.constant:
            return optax.adam(self.learning_rate)
        warm_up = min(WARM_UP, self.steps // 2)
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=self.learning_rate,
            warmup_steps=warm_up,
            decay_steps=self.steps,
            end_value=FINAL_LEARNING_RATE * self.learning_rate,
        )
        return optax.adam(schedule)


class _Fitting(NamedTuple):
    params: Any
    stats: Any
    optimiser: optax.OptState
    step: jax.Array


@flax.struct.dataclass
class Hits(clu_metrics.Collection):
    """Top-1 and top-5 accuracy over masked batches."""

    top1: clu_metrics.Average.from_output("top1")  # type: ignore[valid-type]
    top5: clu_metrics.Average.from_output("top5")  # type: ignore[valid-type]


class Fitter:
    """Compiled training and testing of one architecture at one shape; used for several nets."""

    def __init__(self, module: nn.Module, config: FitConfig, size: int, seed: int) -> None:
        """Prepares the jitted functions.

        Args:
          module: the evaluation net.
          config: how it is trained.
          size: training images, N.
          seed: the run's seed.
        """
        self._module, self._config, self._seed = module, config, seed
        self._batch = min(size, config.batch)
        self._per_epoch = size // self._batch
        self._optimiser = config.optimiser()
        self._start = jax.jit(self._start_fn, static_argnums=1)
        self._step = jax.jit(self._step_fn, donate_argnums=0)
        self._test = jax.jit(self._test_fn, donate_argnums=1)

    def _start_fn(self, net: jax.Array, shape: tuple[int, ...]) -> _Fitting:
        key = key_for(self._seed, Purpose.EVALUATION_INIT, net)
        variables = self._module.init(key, jnp.zeros((1, *shape)), train=False)
        params = variables["params"]
        stats = variables.get("batch_stats", {})
        return _Fitting(params, stats, self._optimiser.init(params), jnp.int32(0))

    def _step_fn(self, state: _Fitting, data: DistilledSet, net: jax.Array) -> _Fitting:
        """One Adam step on one batch of one shuffled epoch."""
        epoch, position = jnp.divmod(state.step, self._per_epoch)
        order = jax.random.permutation(
            key_for(self._seed, Purpose.EVALUATION_BATCH, net, epoch), len(data.images)
        )
        rows = jax.lax.dynamic_slice_in_dim(order, position * self._batch, self._batch)
        key = key_for(self._seed, Purpose.EVALUATION_AUGMENT, net, state.step)
        images = augment(key, data.images[rows], self._config.augment)
        labels = data.labels[rows]

        def loss(params: Any) -> tuple[jax.Array, Any]:
            (logits, _), updated = self._module.apply(
                {"params": params, "batch_stats": state.stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.mean(half_squared_errors(logits - labels)), updated.get("batch_stats", {})

        grads, stats = jax.grad(loss, has_aux=True)(state.params)
        updates, optimiser = self._optimiser.update(grads, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        return _Fitting(params, stats, optimiser, state.step + 1)

    def _test_fn(
        self,
        state: _Fitting,
        totals: Hits,
        images: jax.Array,
        labels: jax.Array,
        mask: jax.Array,
    ) -> Hits:
        variables = {"params": state.params, "batch_stats": state.stats}
        logits, _ = self._module.apply(variables, images, train=False)
        # Rank of the true class: how many logits beat it. Exact ties count against it only if
        # they come first, as argmax has it.
        own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
        rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
        # A NaN logit compares false with everything and would pass for a hit.
        finite = jnp.all(jnp.isfinite(logits), axis=-1)
        return totals.merge(
            Hits.single_from_model_output(
                top1=(rank == 0) & finite, top5=(rank < 5) & finite, mask=mask
            )
        )

    def fit(
        self,
        data: DistilledSet,
        net: int,
        preemption: Preemption,
        progress: Callable[[int], None],
    ) -> _Fitting:
        """Trains fresh net number `net`; nothing is fetched on the way.

        Raises:
          Preempted: a stop was asked for.
        """
        number = jnp.int32(net)
        state = self._start(number, tuple(data.images.shape[1:]))
        for step in range(self._config.steps):
            state = self._step(state, data, number)
            if step % _POLL_EVERY == _POLL_EVERY - 1:
                preemption.check()
                state.step.block_until_ready()
                progress(_POLL_EVERY)
        progress(self._config.steps % _POLL_EVERY)
        return state

    def test(self, state: _Fitting, split: Rows) -> tuple[float, float]:
        """Top-1 and top-5 accuracy on float32 net inputs, read a batch at a time."""
        totals = Hits.empty()
        size = min(_TEST_BATCH, len(split))
        for lo in range(0, len(split), size):
            rows = np.arange(lo, min(lo + size, len(split)))
            missing = size - len(rows)
            totals = self._test(
                state,
                totals,
                np.pad(split.at(rows), [(0, missing)] + [(0, 0)] * 3),
                np.pad(split.labels[rows], (0, missing)),
                np.arange(size) < size - missing,
            )
        result = jax.device_get(totals.compute())
        return float(result["top1"]), float(result["top5"])
