"""The rate of bare convolutions with any version of JAX, against that of a matrix product.

    python benchmarks/convolution.py --images 200 --width 64
    OTHER_VENV/bin/python benchmarks/convolution.py --images 200 --width 64

Imports JAX and nothing of this project, so that the compiler of the authors' code (jax 0.4.13) can
be measured with the same program. The layers are those of the ConvNet: forward, gradient with
respect to the images (also written as a forward convolution with the kernel turned around),
gradient with respect to the kernel. Every round times each once; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PRODUCT = 2048


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3 x 3, padded by 1."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def layer_calls(
    images: int, side: int, channels: int, width: int
) -> dict[str, Callable[[], jax.Array]]:
    """The three convolutions of a layer, one of them written in two ways."""
    x = jnp.ones((images, side, side, channels))
    kernel = jnp.ones((3, 3, channels, width))
    y = jnp.ones((images, side, side, width))
    forward = jax.jit(convolution)
    to_images = jax.jit(lambda k, y: jax.vjp(lambda v: convolution(v, k), x)[1](y)[0])
    to_kernel = jax.jit(lambda x, y: jax.vjp(lambda v: convolution(x, v), kernel)[1](y)[0])
    turned = jax.jit(lambda k, y: convolution(y, k[::-1, ::-1].swapaxes(2, 3)))
    name = f"{side} px, {channels} to {width} channels"
    return {
        f"{name}: forward": lambda: forward(x, kernel),
        f"{name}: gradient of the images": lambda: to_images(kernel, y),
        f"{name}: the same as a forward convolution": lambda: turned(kernel, y),
        f"{name}: gradient of the kernel": lambda: to_kernel(x, y),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Times bare convolutions.")
    for name, default in (
        ("images", 200), ("side", 32), ("channels", 3), ("width", 64), ("depth", 3), ("rounds", 5)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    square, product = jnp.ones((PRODUCT, PRODUCT)), jax.jit(jnp.matmul)
    calls: dict[str, Callable[[], Any]] = {"matrix product": lambda: product(square, square)}
    work = {"matrix product": 2.0 * PRODUCT**3}
    channels, side = given.channels, given.side
    for block in range(given.depth):
        width = given.width * 2**block
        layer = layer_calls(given.images, side, channels, width)
        calls |= layer
        work |= dict.fromkeys(layer, 2.0 * given.images * channels * width * (3 * side - 2) ** 2)
        channels, side = width, side // 2
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(given.rounds + 1):
        for name, call in calls.items():
            worked, began = time.process_time(), time.perf_counter()
            call().block_until_ready()
            taken = time.perf_counter() - began
            if number:  # the first one compiles
                times[name].append((taken, time.process_time() - worked))
    print(f"jax {jax.__version__}, {given.images} images\n")
    print("| operation | ms | GFLOP/s | of the product | cores |\n|---|---|---|---|---|")
    first = 0.0
    for name, found in times.items():
        seconds, worked = (statistics.median(column) for column in zip(*found))  # noqa: B905
        rate = work[name] / seconds / 1e9
        first = first or rate
        print(
            f"| {name} | {1e3 * seconds:.1f} | {rate:.0f} | {rate / first:.0%} |"
            f" {worked / seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
