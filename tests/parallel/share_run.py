"""What processes share, from the view of one of them; prints one JSON line.

Arguments: coordinator address, number of processes, own number.
"""

import json
import sys

import jax
import numpy as np

from frepo_scale.core.errors import FailedElsewhere, InputError, RunError
from frepo_scale.parallel.mesh import DATA, MeshConfig, build_mesh, over
from frepo_scale.parallel.share import of_first, on_first, on_host


def ended(action):
    """How an action on process 0 ends here."""
    try:
        on_first(action)
    except (InputError, RunError) as error:
        return type(error).__name__
    except FailedElsewhere as error:
        return f"code {error.code}"
    return "done"


def wrong():
    raise InputError("x", "y")


def broken():
    raise RunError("z")


def main():
    address, processes, number = sys.argv[1:]
    jax.distributed.initialize(address, int(processes), int(number))
    mesh = build_mesh(MeshConfig())
    whole = np.arange(8 * mesh.size, dtype=np.float32).reshape(-1, 2)
    share = whole.reshape(int(processes), -1, 2)[int(number)]
    spread = jax.make_array_from_process_local_data(over(mesh, DATA), share)
    same = jax.make_array_from_process_local_data(over(mesh), np.float32(7))
    found = on_host({"spread": spread, "same": same, "own": np.ones(2)})
    did = []
    result = {
        "spread": bool(np.array_equal(found["spread"], whole)),
        "same": float(found["same"]),
        "types": all(isinstance(x, np.ndarray) for x in found.values()),
        "of_first": of_first({"x": np.full(3, 1.5 + int(number))})["x"].tolist(),
        "ends": [ended(lambda: did.append(1)), ended(wrong), ended(broken)],
        "did": len(did),
    }
    print("found " + json.dumps(result))


if __name__ == "__main__":
    main()
