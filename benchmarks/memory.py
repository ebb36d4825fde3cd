"""Temporary memory of the outer step against the number of synthetic images, by the compiler.

    python benchmarks/memory.py                 # compiles for this machine's first device
    python benchmarks/memory.py --tpu v5e:1x1   # needs frepo-scale[tpu]

ConvNet of depth 4 and width 128 at 64 px, target batch 256, online minibatch 256, dual form.
Nothing is computed: `compiled.memory_analysis()` says what each N needs at a fixed chunk and
unchunked. Beside it the features (N x d, twice: they and their gradient) and the Gram matrix with
its factor (N x N, twice), which must grow with N.
"""

import argparse
import sys

import jax

from frepo_scale.distill.algorithm import Problem
from frepo_scale.distill.config import DistillConfig
from frepo_scale.distill.frepo import FRePo
from frepo_scale.distill.pool import PoolConfig
from frepo_scale.models.convnet import ConvNet
from frepo_scale.parallel.mesh import MeshConfig, build_mesh
from frepo_scale.plan.compile import compile_outer_step, cost_of
from frepo_scale.plan.compilers import hold_compiler
from frepo_scale.plan.topology import tpu_devices
from frepo_scale.regression.ridge import RidgeConfig

SIDE, CLASSES, DIM, BATCH, CHUNK = 64, 100, 16384, 256, 250


def temporary(size: int, chunk: int, device: jax.Device) -> float:
    """GB of temporary memory of one outer step with `size` synthetic images."""
    module = ConvNet(num_classes=CLASSES, width=128, depth=4)
    problem = Problem(
        module,
        DistillConfig(ipc=size // CLASSES, chunk=chunk),
        PoolConfig(size=1, batch=BATCH),
        RidgeConfig(1e-3, form="dual", precision="float32"),
        build_mesh(MeshConfig(), [device]),
        size,
        BATCH,
    )
    return cost_of(compile_outer_step(FRePo(problem), (SIDE, SIDE, 3), CLASSES)).temporary / 1e9


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tpu", metavar="SLICE", help="compile for a TPU of this slice")
    options.add_argument("--sizes", default="1000,2000,4000,8000")
    args = options.parse_args()
    if args.tpu:
        hold_compiler("tpu", print)
    device = tpu_devices(args.tpu)[0] if args.tpu else jax.devices()[0]
    print(f"{device.device_kind}, GB")
    print(f"| N | chunk {CHUNK} | unchunked | features | Gram and factor |")
    print("|---|---|---|---|---|")
    for size in map(int, args.sizes.split(",")):
        chunked = temporary(size, CHUNK, device)
        try:
            whole = f"{temporary(size, size, device):.2f}"
        except jax.errors.JaxRuntimeError as error:
            print(str(error).splitlines()[0], file=sys.stderr)
            whole = "does not fit"
        features, gram = 2 * size * DIM * 4e-9, 2 * size * size * 4e-9
        print(f"| {size} | {chunked:.2f} | {whole} | {features:.2f} | {gram:.2f} |", flush=True)


if __name__ == "__main__":
    main()
