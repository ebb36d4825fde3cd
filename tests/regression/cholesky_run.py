"""Factorises and solves one system on several meshes and writes what it found to an .npz file.

A separate program, because the number of devices is fixed when JAX starts.
Arguments: the input file
(matrix, right), the output file, the block, a JSON list of device counts; then, for several
processes, coordinator address, number of processes and own number.
"""

import json
import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from frepo_scale.parallel.mesh import DATA, MeshConfig, build_mesh
from frepo_scale.regression.cholesky import Spread, factorise, substitute


def solved(matrix, right, devices, block):
    """(factor with its rows in order, solution), both complete."""
    mesh = build_mesh(MeshConfig(), jax.devices()[:devices])
    spread = Spread(DATA, devices, block)

    def local(matrix, right):
        factor = factorise(spread.local(matrix), spread)
        whole = jax.lax.all_gather(factor, DATA).swapaxes(0, 1).reshape(-1, len(matrix))
        return whole[: len(matrix)], substitute(factor, right, spread)

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P()), out_specs=(P(), P()), check_vma=False
    )
    return [np.asarray(x) for x in jax.jit(mapped)(matrix, right)]


def main():
    source, out, block, counts, *several = sys.argv[1:]
    if several:
        address, count, own = several[0], int(several[1]), int(several[2])
        jax.distributed.initialize(address, count, own, initialization_timeout=60)
    with np.load(source) as given:
        matrix, right = given["matrix"], given["right"]
    found = {}
    for devices in json.loads(counts):
        factor, x = solved(matrix, right, devices, int(block))
        found |= {f"factor{devices}": factor, f"x{devices}": x}
    np.savez(out, **found)


if __name__ == "__main__":
    main()
