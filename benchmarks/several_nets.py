"""Several evaluation nets at once against one after the other.

The final evaluation trains fresh nets on the same small set. Their steps could be one program: with
`jax.vmap` over the nets, or with the steps of all nets written out in it ("unrolled"). The ratio is
the time of one step of all nets against that many steps of one net, in the same process: below 1,
together is faster.

  python benchmarks/several_nets.py --net convnet --width 32 --images 100 --side 32
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from frepo_scale.core.types import DistilledSet
from frepo_scale.data.augment import AugmentConfig
from frepo_scale.evaluate.fit import FitConfig, Fitter
from frepo_scale.models.registry import NetConfig, build_net


def seconds(step: Callable[[Any], Any], state: Any, steps: int, repeats: int) -> float:
    """Median time of a step."""
    state = jax.block_until_ready(step(state))  # compiles
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(steps):
            state = step(state)
        jax.block_until_ready(state)
        found.append((time.perf_counter() - started) / steps)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="convnet")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--nets", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()

    shape = (given.side, given.side, given.channels)
    module = build_net(NetConfig(given.net, given.width, given.depth, "none"), 10, shape)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(given.images, *shape)), jnp.float32)
    data = DistilledSet(images, jnp.asarray(rng.normal(size=(given.images, 10)), jnp.float32))
    fit = FitConfig(1000, 500, 3e-4, constant=False, augment=AugmentConfig(flip=True))
    fitter = Fitter(module, fit, given.images, 0)
    rate = jnp.float32(fit.learning_rate)
    numbers = jnp.arange(given.nets, dtype=jnp.int32)

    def one_by_one(states: list[Any]) -> list[Any]:
        return [fitter._step(state, data, numbers[i], rate) for i, state in enumerate(states)]

    # Arguments, as in `Fitter`: what a jitted function only refers to becomes a constant of it.
    def unrolled(states: list[Any], *given: Any) -> list[Any]:
        data, numbers, rate = given
        return [fitter._step_fn(state, data, numbers[i], rate) for i, state in enumerate(states)]

    def starts() -> list[Any]:
        return [fitter._start(number, shape) for number in numbers]

    all_at_once = jax.jit(unrolled, donate_argnums=0)
    mapped_step = jax.jit(jax.vmap(fitter._step_fn, in_axes=(0, None, 0, None)), donate_argnums=0)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts())
    alone = seconds(one_by_one, starts(), given.steps, given.repeats)
    together = seconds(
        lambda states: all_at_once(states, data, numbers, rate),
        starts(),
        given.steps,
        given.repeats,
    )
    mapped = seconds(
        lambda states: mapped_step(states, data, numbers, rate),
        stacked,
        given.steps,
        given.repeats,
    )
    print(
        f"{jax.devices()[0].device_kind}: {given.nets} x {given.net}, width {given.width},"
        f" {given.images} images of {given.side} px: one by one {1e3 * alone:.1f} ms,"
        f" unrolled {together / alone:.2f}, vmap {mapped / alone:.2f} of that"
    )


if __name__ == "__main__":
    main()
