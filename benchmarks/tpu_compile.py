"""Compiles ImageNet's outer step for TPU slices on any machine, and reports whether it fits.

    python benchmarks/tpu_compile.py                    # nine compilations of some minutes each
    python benchmarks/tpu_compile.py --slice v5e:4x4 --ipc 10
    python benchmarks/tpu_compile.py --cholesky 16384   # the blocked factorisation alone

Needs `pip install frepo-scale[tpu]`; a second process waits. Per device: bytes of state and batch,
of temporaries, their sum against the memory of the device; then the bytes of the collectives over
each mesh axis (what one device receives), and seconds of compilation. Loops count once.
"""

import argparse
import time
from collections import Counter

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.jobs.plan import compile_recipe
from frepo_scale.parallel.mesh import DATA, POOL, MeshConfig, build_mesh, over
from frepo_scale.plan.collectives import collectives
from frepo_scale.plan.compile import cost_of
from frepo_scale.plan.compilers import hold_compiler
from frepo_scale.plan.topology import tpu_devices
from frepo_scale.regression.cholesky import BLOCK, Spread, factorise, substitute

# slice: (GB of a device, settings of the recipe)
SLICES = {
    "v5e:4x4": (16, {"MEMBERS": 4, "POOL_SIZE": 16, "MESH_POOL": 4, "MESH_DATA": 4, "CHUNK": 256}),
    "v5e:16x16": (
        16,
        {"MEMBERS": 16, "POOL_SIZE": 32, "MESH_POOL": 16, "MESH_DATA": 16, "CHUNK": 256},
    ),
    "v4:2x2x2": (30, {"MEMBERS": 4, "POOL_SIZE": 16, "MESH_POOL": 2, "MESH_DATA": 4, "CHUNK": 512}),
}
IPCS = (2, 10, 50)


def row(ipc: int, slice_name: str) -> str:
    """One line of the table."""
    room, settings = SLICES[slice_name]
    path = config.find_recipe(f"imagenet1k_ipc{ipc}.gin")
    recipe = config.load_recipe(path, {name: str(value) for name, value in settings.items()})
    began = time.perf_counter()
    name = f"| {ipc} | {slice_name} | {recipe.config.mesh.pool} x {recipe.config.mesh.data} "
    try:
        compiled = compile_recipe(recipe.config, tpu_devices(slice_name))
    except jax.errors.JaxRuntimeError as error:
        return name + f"| does not fit: {str(error).splitlines()[0][:200]} |"
    seconds = time.perf_counter() - began
    cost = cost_of(compiled)
    sent: Counter[str] = Counter()
    mesh = recipe.config.mesh
    for found in collectives(str(compiled.as_text()), mesh.pool, mesh.data):
        sent[found.axis] += found.bytes
    total = cost.total / 1e9
    return name + (
        f"| {cost.arguments / 1e9:.2f} | {cost.temporary / 1e9:.2f} | {total:.1f} of {room} "
        f"| {sent[DATA] / 1e9:.2f} | {sent[POOL] / 1e9:.3f} | {seconds:.0f} |"
    )


def cholesky(unknowns: int) -> None:
    """Prints seconds to compile the blocked factorisation, on one device and over four."""
    devices = list(tpu_devices("v5e:2x2"))
    for count in (1, 4):
        mesh = build_mesh(MeshConfig(), devices[:count])
        spread = Spread(DATA, count)
        n = spread.padded(unknowns)
        shape = (spread.stored(n) // BLOCK, BLOCK, n)
        matrix = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=over(mesh, DATA))
        right = jax.ShapeDtypeStruct((n, 1000), jnp.float32, sharding=over(mesh))

        def solved(a: jax.Array, y: jax.Array, spread: Spread = spread) -> jax.Array:
            return substitute(factorise(a, spread), y, spread)

        def alone(a: jax.Array, y: jax.Array, spread: Spread = spread) -> jax.Array:
            return factorise(a, spread)

        for name, function, out in (("factorise", alone, P(DATA)), ("and solve", solved, P())):
            mapped = jax.shard_map(
                function, mesh=mesh, in_specs=(P(DATA), P()), out_specs=out, check_vma=False
            )
            began = time.perf_counter()
            with jax.default_matmul_precision("highest"):
                jax.jit(mapped).lower(matrix, right).compile()
            print(
                f"n = {n}, {count} devices, {name}: {time.perf_counter() - began:.0f} s", flush=True
            )


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--slice", choices=SLICES, action="append")
    options.add_argument("--ipc", type=int, choices=IPCS, action="append")
    options.add_argument("--cholesky", type=int, metavar="N", help="only this, N unknowns")
    args = options.parse_args()
    hold_compiler("tpu", print)
    if args.cholesky:
        cholesky(args.cholesky)
        return
    print("| IPC | slice | mesh | arguments | temporary | GB | data GB | pool GB | compile s |")
    print("|---" * 9 + "|")
    for slice_name in args.slice or SLICES:
        for ipc in args.ipc or IPCS:
            try:
                print(row(ipc, slice_name), flush=True)
            except InputError as error:
                raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
