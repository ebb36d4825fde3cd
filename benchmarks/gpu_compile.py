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
from jax.experimental import topologies

# A GpuTargetConfigProto in text form, of an H100 with 80 GB.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def device() -> jax.Device:
    """An H100, to compile for."""
    found = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", topology="1x1x1", target_config=H100
    )
    first: jax.Device = found.devices[0]
    return first


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
