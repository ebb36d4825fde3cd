"""Computes RCIG's gradient over all devices and saves it, with exact solves and without clipping.

A separate program, because the number of devices is fixed when JAX starts. Arguments: a JSON object
of arguments of `rcig_problem.problem`, and the file.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from rcig_problem import SHARPNESS, SIZE, inputs, pool_of, problem

from frepo_scale.distill import implicit
from frepo_scale.distill.rcig import RCIG
from frepo_scale.distill.step import make_meta_gradient
from frepo_scale.parallel.mesh import MeshConfig, build_mesh


def main():
    # The safeguard would hide an error of the implicit part.
    implicit._clipped = lambda part, *_: part
    implicit.platform_of = lambda mesh: "gpu"  # in a loop: unrolled, 150 iterations compile slowly
    case, devices = json.loads(sys.argv[1]), jax.device_count()
    with jax.enable_x64(True):
        given = problem(**case, mesh=build_mesh(MeshConfig(1, devices)))
        algorithm = RCIG(given, inner_steps=150, implicit_steps=150, tolerance=1e-13)
        distilled, batch = inputs(jnp.float64)
        padding = -SIZE % devices
        padded = jax.tree.map(
            lambda x: jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)), distilled
        )
        sharpness = jnp.float64(SHARPNESS) if case["loss"] == "cross_entropy" else None
        found = jax.jit(make_meta_gradient(given, algorithm.member_gradient))(
            jnp.int32(0),
            padded,
            sharpness,
            pool_of(given, jnp.float64),
            jax.tree.map(lambda x: x[None], batch),
        )
        for padded_rows in found.distilled:
            assert not np.any(padded_rows[SIZE:])
        images, labels = (np.asarray(x)[:SIZE] for x in found.distilled)
        arrays = {name: np.asarray(value) for name, value in found.metrics.items()}
        if sharpness is not None:
            arrays["sharpness"] = np.asarray(found.sharpness)
        np.savez(sys.argv[2], images=images, labels=labels, **arrays)


if __name__ == "__main__":
    main()
