"""Part 1, facts: which card and versions, and the rates the card reaches on large arrays.

Rates are of square matrix products of random data (zeros can run faster), in the precisions the
program uses: bfloat16; float32 as JAX multiplies it by default, which on recent NVIDIA cards is
TF32; float32 at the highest precision; float64. The bandwidth is of `x + 1` on an array far larger
than any cache, counting bytes read and written. Later parts compare with these rates.
"""

import importlib.metadata
import os
import platform
import subprocess

import jax
import jax.numpy as jnp

from gpu_parts.report import Report
from gpu_parts.timing import measure

PRODUCTS = {
    "bfloat16": (jnp.bfloat16, None),
    "float32_default": (jnp.float32, None),
    "float32_highest": (jnp.float32, "highest"),
    "float64": (jnp.float64, "highest"),
}
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint", "numpy")
_QUERY = "name,driver_version,memory.total,clocks.max.sm"


def run(report: Report) -> None:
    """Machine and versions first, then one rate after the other."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    report.put(
        platform=device.platform,
        device=device.device_kind,
        devices=jax.device_count(),
        device_gib=stats.get("bytes_limit", 0) / 2**30,
        nvidia_smi=_nvidia_smi(),
        processor=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        environment={n: v for n, v in os.environ.items() if n.startswith(("JAX_", "XLA_"))},
        rates={},
    )
    size = 256 if report.options.smoke else 8192
    seconds = 0.1 if report.options.smoke else 1.0
    for name, (dtype, precision) in PRODUCTS.items():
        if report.has(2 * seconds, f"matrix rate of {name}"):
            rate = matrix_rate(size, dtype, precision, seconds)
            report.put(rates=report.found["rates"] | {name: rate})
    if report.has(2 * seconds, "bandwidth"):
        report.put(bytes_per_second=bandwidth(2**22 if report.options.smoke else 2**31, seconds))


def matrix_rate(
    size: int, dtype: jax.typing.DTypeLike, precision: str | None, seconds: float
) -> float:
    """Operations per second of a product of two random (size, size) matrices."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0))
        a, b = (jax.random.normal(key, (size, size), jnp.float32).astype(dtype) for key in keys)
        product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
        return 2 * size**3 / measure(lambda: product(a, b), seconds).queued


def bandwidth(size: int, seconds: float) -> float:
    """Bytes per second read and written by a copy of `size` bytes."""
    x = jax.random.normal(jax.random.key(0), (size // 4,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * size / measure(lambda: copy(x), seconds).queued


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_smi() -> str | None:
    """What the driver says of the card; reads only."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
