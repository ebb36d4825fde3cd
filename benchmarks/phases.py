"""The time of each phase of the outer step on this machine, at the shapes of a recipe.

    python benchmarks/phases.py cifar10_ipc10.gin --gin.WIDTH=64 --gin.BATCH=256
    python benchmarks/phases.py cifar10_ipc10.gin --gin.WIDTH=64 --gin.BATCH=256 --compare

No data are read: images are random. Two tables:

  phases   each phase as a program of its own, then the whole step. "in one program" has features
           and gradient of the synthetic images without a second forward pass.
  pooling  ways to write the 2 x 2 average pool with its gradient, after the first convolution

GFLOP/s: operations counted from the shapes, without those that are computed again. Cores: processor
time over wall time. Page faults: minor ones, per call. Times are medians; every round times every
row once, so that other programs slow all rows down alike.

--compare runs the whole step with several compiler and allocator settings, each in a process of its
own, in turn. Convolutions alone, also with other versions of JAX: benchmarks/convolution.py.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from gpu_parts.step_case import (
    PHASES,
    Shape,
    compiled_step,
    phases,
    problem_of,
    repeated,
    repeated_phase,
    state_and_batch,
)

from frepo_scale import config
from frepo_scale.data.sources.specs import spec_for
from frepo_scale.distill.features import features_of
from frepo_scale.distill.flops import outer_step_phases

REGRESSION = ("Gram matrix", "factorisation and solves", "products with features")
SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "large pages (the launchers)": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "one thread": {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    "without oneDNN": {"XLA_FLAGS": "--xla_cpu_use_onednn=false"},
    "XNNPACK": {"XLA_FLAGS": "--xla_cpu_use_xnnpack=true"},
    "512-bit vectors": {"XLA_FLAGS": "--xla_cpu_prefer_vector_width=512"},
    "fast min and max": {"XLA_FLAGS": "--xla_cpu_enable_fast_min_max=true"},
}
LIMIT = 600.0  # seconds of a process of --compare


class Cost(NamedTuple):
    """Medians of one call: wall seconds, processor seconds, page faults."""

    seconds: float
    processor: float
    faults: float


def measured(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Cost]:
    """Times every call once per round, after a first call of each."""
    for call in calls.values():
        jax.block_until_ready(call())
    found: dict[str, list[Cost]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            worked, began = time.process_time(), time.perf_counter()
            jax.block_until_ready(call())
            taken, worked = time.perf_counter() - began, time.process_time() - worked
            more = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            found[name].append(Cost(taken, worked, more))
    return {
        name: Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))
        for name, costs in found.items()
    }


def shape_of(name: str, overrides: Mapping[str, str]) -> Shape:
    """The shape of a recipe's outer step."""
    recipe = config.load_recipe(config.find_recipe(name), overrides).config
    spec = spec_for(recipe.data.name)
    side = recipe.data.resolution or spec.resolution
    if side is None or spec.num_classes is None:
        sys.exit(f"{name}: the size of its images or its classes are known from its data only")
    return Shape(
        recipe.data.name,
        side,
        recipe.net.depth,
        spec.num_classes,
        recipe.distill.ipc,
        recipe.distill.flip,
        recipe.ridge.ridge,
        spec.channels or 3,
        recipe.net.width,
        recipe.data.batch,
    )


def step_call(shape: Shape) -> Callable[[], Any]:
    """One more outer step each time it is called."""
    return repeated(compiled_step(shape, "float32"), *state_and_batch(shape))


def phase_calls(shape: Shape) -> dict[str, Callable[[], Any]]:
    """Every phase, and the synthetic images' two passes in one program."""
    state, batch = state_and_batch(shape)
    found = phases(shape, "float32", state, batch)
    seen, cotangent, member = found["synthetic backward"].arguments
    module = problem_of(shape).module

    @jax.jit
    def both(images: jax.Array, cotangent: jax.Array, member: Any) -> Any:
        features, pull_back = jax.vjp(lambda x: features_of(module, member, x), images)
        return features, pull_back(cotangent)

    alone = {name: repeated_phase(found[name], found[name].function) for name in PHASES}
    return alone | {"forward and backward in one program": lambda: both(seen, cotangent, member)}


def print_phases(shape: Shape, rounds: int) -> None:
    """The table of phases."""
    counted = outer_step_phases(problem_of(shape), shape.image, shape.classes)
    counted["regression"] = sum(counted[name] for name in REGRESSION)
    counted["optimiser"] = 0.0
    # The backward pass alone has a forward pass in it.
    work = {name: counted[name] for name in PHASES}
    both = "forward and backward in one program"
    work[both] = work["synthetic forward"] + work["synthetic backward"]
    work["whole step"] = sum(work[name] for name in PHASES)
    found = measured(phase_calls(shape) | {"whole step": step_call(shape)}, rounds)
    total = sum(found[name].seconds for name in PHASES)
    print(f"\n{shape}\n")
    print("| phase | ms | share | GFLOP/s | cores | page faults |\n|---|---|---|---|---|---|")
    for name, cost in found.items():
        share = f"{cost.seconds / total:.0%}" if name in PHASES else ""
        rate = f"{work[name] / cost.seconds / 1e9:.0f}" if work[name] else ""
        print(
            f"| {name} | {1e3 * cost.seconds:.1f} | {share} | {rate} |"
            f" {cost.processor / cost.seconds:.1f} | {cost.faults:.0f} |"
        )
    print(f"| sum of the phases | {1e3 * total:.1f} | | | | |", flush=True)


def by_window(x: jax.Array) -> jax.Array:
    """As the nets do."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def by_slices(x: jax.Array) -> jax.Array:
    """The mean of four strided slices, added in the order of the window."""
    total = x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2]
    return total / 4


def by_reshape(x: jax.Array) -> jax.Array:
    """The mean over two axes of a reshaped array."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def print_pooling(shape: Shape, rounds: int) -> None:
    """The table of ways to pool: ReLU, pool, and back."""
    x = jax.random.normal(jax.random.key(0), (shape.rows, shape.side, shape.side, shape.width))
    y = jnp.ones((shape.rows, shape.side // 2, shape.side // 2, shape.width))
    calls: dict[str, Callable[[], Any]] = {}
    for pool in (by_window, by_slices, by_reshape):

        def back(x: jax.Array, y: jax.Array, pool: Any = pool) -> jax.Array:
            return jax.vjp(lambda v: pool(nn.relu(v)), x)[1](y)[0]

        forward, backward = jax.jit(lambda x, pool=pool: pool(nn.relu(x))), jax.jit(back)
        calls[f"{pool.__name__}, forward"] = partial(forward, x)
        calls[f"{pool.__name__}, backward"] = partial(backward, x, y)
    print("\n| pooling | ms | cores |\n|---|---|---|")
    for name, cost in measured(calls, rounds).items():
        print(f"| {name} | {1e3 * cost.seconds:.1f} | {cost.processor / cost.seconds:.1f} |")


def print_settings(given: list[str], rounds: int) -> None:
    """The whole step with each of `SETTINGS`, round after round."""
    times: dict[str, list[Cost]] = {name: [] for name in SETTINGS}
    wrong: dict[str, str] = {}
    for _ in range(rounds):
        for name, variables in SETTINGS.items():
            if name in wrong:
                continue
            command = [sys.executable, __file__, *given, "--only-step"]
            try:
                ended = subprocess.run(
                    command, env=os.environ | variables, capture_output=True, text=True,
                    timeout=LIMIT,
                )  # fmt: skip
                times[name].append(Cost(*json.loads(ended.stdout.splitlines()[-1])))
            except (subprocess.TimeoutExpired, IndexError, ValueError):
                wrong[name] = "not known to this version, or too slow"
    print("\n| setting | ms | cores | page faults | time relative to the first |")
    print("|---|---|---|---|---|")
    first = statistics.median(cost.seconds for cost in times[next(iter(SETTINGS))])
    for name, costs in times.items():
        if name in wrong:
            print(f"| {name} | {wrong[name]} | | | |")
            continue
        middle = Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))
        print(
            f"| {name} | {1e3 * middle.seconds:.1f} | {middle.processor / middle.seconds:.1f} |"
            f" {middle.faults:.0f} | {middle.seconds / first:.2f} |"
        )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="Times the phases of an outer step.")
    parser.add_argument("recipe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="compiler and allocator settings")
    parser.add_argument("--only-step", action="store_true", help=argparse.SUPPRESS)
    known, given = parser.parse_known_args()
    overrides = dict(item.removeprefix("--gin.").split("=", 1) for item in given)
    shape = shape_of(known.recipe, overrides)
    if known.only_step:
        print(json.dumps(measured({"step": step_call(shape)}, known.rounds)["step"]))
    elif known.compare:
        print_settings([known.recipe, *given], min(known.rounds, 3))
    else:
        print_phases(shape, known.rounds)
        print_pooling(shape, known.rounds)


if __name__ == "__main__":
    main()
