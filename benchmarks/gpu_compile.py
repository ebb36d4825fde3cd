"""Compiles the outer step for an NVIDIA GPU on a machine without one, and counts its operations.

    pip install --target .venv/gpu_compiler "jax-cuda13-plugin[with-cuda]==JAX'S VERSION"   # 4.4 GB
    PYTHONPATH=.venv/gpu_compiler python benchmarks/gpu_compile.py [--shape N] [--dtype bfloat16]

For each of the four shapes of `gpu_check.py`: seconds of compilation; GiB of arguments and
temporaries; convolutions (cuDNN calls), fusions, transposes of activations, matrix factorisations,
computations on float64 in nets and optimiser, and transfers to or from the host. Without a card no
kernel is timed, so the choice of algorithms is the compiler's default.
`--text FOLDER` also writes each program.
"""

import argparse
import os
import time
from pathlib import Path

# Before JAX is imported. Without a GPU no kernels can be timed.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()

import jax
from gpu_parts.hlo import counts
from gpu_parts.step_case import DTYPES, SHAPES, Shape, compiled_step, memory_of

from frepo_scale.plan.hardware import parse_hardware
from frepo_scale.plan.topology import gpu_devices


def device() -> jax.Device:
    """An H100, to compile for."""
    return gpu_devices(parse_hardware("h100:1"))[0]


def row(shape: Shape, dtype: str, target: jax.Device, folder: Path | None) -> str:
    """One line of the table."""
    began = time.perf_counter()
    compiled = compiled_step(shape, dtype, target)
    seconds = time.perf_counter() - began
    text, memory = str(compiled.as_text()), memory_of(compiled)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{shape.name} {dtype}.txt".replace(" ", "_")).write_text(text)
    found = counts(text)
    return (
        f"| {shape.name} | {dtype} | {seconds:.0f} | {memory.arguments / 2**30:.2f}"
        f" | {memory.temporary / 2**30:.2f} | {found.convolutions} | {found.fusions}"
        f" | {found.transposes} | {found.factorisations} | {found.float64_in_nets}"
        f" | {found.host} | {', '.join(f'{n} {c}' for c, n in found.calls.most_common())} |"
    )


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--shape", type=int, choices=range(len(SHAPES)), action="append")
    options.add_argument("--dtype", choices=DTYPES, action="append")
    options.add_argument("--text", type=Path, metavar="FOLDER", help="writes the programs to it")
    given = options.parse_args()
    target = device()
    print(
        "| shape | features | compile s | arguments GiB | temporary GiB | convolutions | fusions"
        " | transposes | factorisations | float64 in nets | host transfers | custom calls |"
    )
    print("|---" * 12 + "|")
    for number in given.shape or range(len(SHAPES)):
        for dtype in given.dtype or DTYPES:
            print(row(SHAPES[number], dtype, target, given.text), flush=True)


if __name__ == "__main__":
    main()
