"""Trains one fresh net on a small labelled set and counts its correct predictions.

Source: docs/algorithm.md section 5. Legend: N training images, b batch, n test images, K classes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from frepo_scale.data.augment import AugmentConfig, augment
from frepo_scale.data.types import Rows
from frepo_scale.models.apply import apply_net
from frepo_scale.ops.preemption import Preemption
from frepo_scale.regression.loss import half_squared_errors

WARM_UP = 500
FINAL_LEARNING_RATE = 0.01
_TEST_BATCH = 500
_POLL_EVERY = 20  # steps between polls of the stop flag; also bounds the queue of the device


class Draws(NamedTuple):
    """The purposes of a net's random numbers, see `core.keys`.

    Attributes:
      init: initial parameters.
      batch: order of the images.
      augment: augmentation.
    """

    init: Purpose
    batch: Purpose
    augment: Purpose


PROBE_DRAWS = Draws(Purpose.EVALUATION_INIT, Purpose.EVALUATION_BATCH, Purpose.EVALUATION_AUGMENT)
# Not the probe's draws: the exported set was selected with those.
FINAL_DRAWS = Draws(Purpose.FINAL_INIT, Purpose.FINAL_BATCH, Purpose.FINAL_AUGMENT)


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
      draws: which random numbers are used.
      dtype: one of `models.apply.NET_DTYPES`, of the net while it is trained. Nets are tested in
        the dtype of their parameters, float32: among bfloat16 logits the largest is often not
        unique.
    """

    steps: int
    batch: int
    learning_rate: float
    constant: bool
    augment: AugmentConfig
    draws: Draws = PROBE_DRAWS
    dtype: str = "float32"

    def optimiser(self, learning_rate: float | jax.Array) -> optax.GradientTransformation:
        """Adam on the schedule with this rate, which may be traced."""
        if self.constant:
            return optax.adam(learning_rate)
        warm_up = min(WARM_UP, self.steps // 2)
        # `optax.warmup_cosine_decay_schedule`, which divides by the rate.
        rise = optax.linear_schedule(0.0, learning_rate, warm_up)
        fall = optax.cosine_decay_schedule(
            learning_rate, self.steps - warm_up, alpha=FINAL_LEARNING_RATE
        )
        return optax.adam(optax.join_schedules([rise, fall], [warm_up]))


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
        """Makes the jitted functions; nothing is compiled yet.

        Args:
          module: the evaluation net.
          config: how it is trained.
          size: number of training images, N.
          seed: the run's seed.
        """
        self.module, self._config, self._seed = module, config, seed
        self._batch = min(size, config.batch)
        self._test_batch = min(_TEST_BATCH, config.batch)  # a smaller batch is asked for memory
        self._per_epoch = size // self._batch
        self._start = jax.jit(self._start_fn, static_argnums=1)
        self._step = jax.jit(self._step_fn, donate_argnums=0)
        self._test = jax.jit(self._test_fn, donate_argnums=1)
        self._logits = jax.jit(self._logits_fn)

    def _start_fn(self, net: jax.Array, shape: tuple[int, ...]) -> _Fitting:
        key = key_for(self._seed, self._config.draws.init, net)
        variables = self.module.init(key, jnp.zeros((1, *shape)), train=False)
        params = variables["params"]
        stats = variables.get("batch_stats", {})
        optimiser = self._config.optimiser(self._config.learning_rate)  # the state holds no rate
        return _Fitting(params, stats, optimiser.init(params), jnp.int32(0))

    def at_rate(self, learning_rate: float) -> "Fitter":
        """The same with another learning rate; nothing is compiled again."""
        other = copy.copy(self)
        other._config = replace(self._config, learning_rate=learning_rate)
        return other

    def _step_fn(
        self, state: _Fitting, data: DistilledSet, net: jax.Array, rate: jax.Array
    ) -> _Fitting:
        """One Adam step on one batch of one shuffled epoch."""
        epoch, position = jnp.divmod(state.step, self._per_epoch)
        order = jax.random.permutation(
            key_for(self._seed, self._config.draws.batch, net, epoch), len(data.images)
        )
        rows = jax.lax.dynamic_slice_in_dim(order, position * self._batch, self._batch)
        key = key_for(self._seed, self._config.draws.augment, net, state.step)
        images = augment(key, data.images[rows], self._config.augment)
        labels = data.labels[rows]

        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, _, stats = apply_net(
                self.module, params, state.stats, images, self._config.dtype, train=True
            )
            return jnp.mean(half_squared_errors(logits - labels)), stats

        grads, stats = jax.grad(loss, has_aux=True)(state.params)
        update = self._config.optimiser(rate).update
        updates, optimiser = update(grads, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        return _Fitting(params, stats, optimiser, state.step + 1)

    def _logits_fn(self, state: _Fitting, images: jax.Array) -> jax.Array:
        variables = {"params": state.params, "batch_stats": state.stats}
        logits: jax.Array = self.module.apply(variables, images, train=False)[0]
        return logits

    def _test_fn(
        self,
        state: _Fitting,
        totals: Hits,
        images: jax.Array,
        labels: jax.Array,
        mask: jax.Array,
    ) -> Hits:
        logits = self._logits_fn(state, images)
        # Rank of the true class: the number of larger logits. Of equal logits the first one wins,
        # as in argmax.
        own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
        rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
        # A NaN logit compares false with everything and would count as correct.
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
        visit: Callable[[int, _Fitting], None] | None = None,
    ) -> _Fitting:
        """Trains fresh net number `net`; nothing is copied to the host in between.

        Args:
          data: images (N, H, W, C) float32 as net inputs, labels (N, K) float32.
          net: number of the net; with the seed it decides every random choice.
          preemption: polled every 20 steps.
          progress: called with the number of steps done since the last call.
          visit: called after every step with the number of steps done and the state, whose arrays
            the next step replaces.

        Raises:
          Preempted: a stop was requested.
        """
        number, rate = jnp.int32(net), jnp.float32(self._config.learning_rate)
        state = self._start(number, tuple(data.images.shape[1:]))
        for step in range(self._config.steps):
            state = self._step(state, data, number, rate)
            if visit is not None:
                visit(step + 1, state)
            if step % _POLL_EVERY == _POLL_EVERY - 1:
                preemption.check()
                state.step.block_until_ready()
                progress(_POLL_EVERY)
        progress(self._config.steps % _POLL_EVERY)
        return state

    def logits(self, state: _Fitting, images: np.ndarray) -> np.ndarray:
        """Logits (n, K) float32 of net inputs (n, H, W, C)."""
        parts = [
            np.asarray(self._logits(state, images[lo : lo + self._test_batch]))
            for lo in range(0, len(images), self._test_batch)
        ]
        return np.concatenate(parts)

    def test(self, state: _Fitting, split: Rows) -> tuple[float, float]:
        """Top-1 and top-5 accuracy in [0, 1] on float32 net inputs, read 500 at a time at most."""
        totals = Hits.empty()
        size = min(self._test_batch, len(split))
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


class TrainedNet(NamedTuple):
    """A net after training, for measurements.

    Attributes:
      fitter: trained it; holds the compiled test.
      state: its parameters and statistics.
      number: the number of the net, from 0.
    """

    fitter: Fitter
    state: _Fitting
    number: int

    @property
    def module(self) -> nn.Module:
        """The flax module."""
        return self.fitter.module

    @property
    def variables(self) -> dict[str, Any]:
        """`params` and `batch_stats`, for `module.apply(variables, images, train=False)`."""
        return {"params": self.state.params, "batch_stats": self.state.stats}

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits (n, K) float32 of net inputs (n, H, W, C), 500 at a time at most."""
        return self.fitter.logits(self.state, images)

    def accuracy(self, rows: Rows) -> tuple[float, float]:
        """Top-1 and top-5 accuracy in [0, 1] on float32 net inputs with integer labels."""
        return self.fitter.test(self.state, rows)
