"""Promise 1: the mesh places the algorithm and never changes it.

Thirty outer steps with flip, BatchNorm and resets, on real meshes of virtual CPU devices and on two
real processes, against one device. Float64 is the sharp test: in float32 Adam's sign-like first
steps turn rounding into steps.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from processes import finished, free_address, start

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("mesh_run.py")

FOUR = {"members": 4, "steps": 30}
EIGHT = {"members": 8, "width": 4, "flip": False}
PRIMAL = {"members": 1, "width": 2, "size": 45, "form": "primal", "online": 11, "ridge": 1e-4}
FACTORED = {"members": 2, "width": 2, "size": 45, "flip": False, "ridge": 1e-4, "steps": 15}
BLOCKED = FACTORED | {"factorisation": "blocked", "block": 4}
SPREAD = BLOCKED | {"distribute_above": 0}
SWITCHES = {
    "loss": "cross_entropy",
    "optimiser": "adabelief",
    "average": 0.9,
    "clip": 2.0,
    "gradient_images": 7,
}
RCIG = {
    "members": 2,
    "width": 2,
    "norm": "none",
    "steps": 6,
    "rcig": [2, 2],
    "scale": "absolute",
    "ridge": 5e-4,
    "outer": SWITCHES,
    "online_steps": 2,
}
RCIG_SPREAD = RCIG | {
    "platform": "tpu",
    "factorisation": "blocked",
    "block": 4,
    "distribute_above": 0,
}
AUGMENTED = {
    "members": 2,
    "width": 2,
    "size": 45,
    "form": "primal",
    "ridge": 1e-4,
    "pool": 4,
    "frozen": 2,
    "chunk": 24,
    "steps": 10,
}
FLOAT32 = {"members": 2, "dtype": "float32", "ridge": 1e-3}


def on_meshes(case, *meshes):
    return [case | {"mesh": mesh} for mesh in meshes]


def on_eight_devices(cases):
    """What one process with eight devices found; the first case is the reference."""
    return result(start(PROGRAM, json.dumps({"": cases}), devices=8))


def result(process):
    """What a process printed, case by case."""
    found = [
        case
        for line in finished(process).splitlines()
        if line.startswith("RESULT ")
        for case in json.loads(line.removeprefix("RESULT "))[""]
    ]
    assert found
    return found


def run_in_two_processes(cases):
    """What both found: they must agree to the bit."""
    address, text = free_address(), json.dumps({"": cases})
    pair = [start(PROGRAM, text, address, 2, own, devices=4) for own in (0, 1)]
    first, second = [result(process) for process in pair]
    assert first == second
    return first


def differences(found):
    """Largest relative difference of any loss of any case to the first case."""
    first, *others = (np.array(f["losses"])[:, :2] for f in found)
    return [float(np.abs(other / first - 1).max()) for other in others]


def test_data_axis_two_processes_and_a_run_that_moves(tmp_path):
    """N = 10 over 4 and 8 devices: uneven and empty shards. rows = 20 <= d / 8 = 32.

    One run resumes from its checkpoints on 8, 4 and 1 devices and in two processes with 4 each.
    """
    case = {"members": 1}
    meshes = on_meshes(case, [1, 1], [1, 2], [1, 4], [1, 8])
    moving = case | {"checkpoints": str(tmp_path)}
    parts = [moving | {"mesh": [1, data], "steps": to} for data, to in ((8, 7), (4, 15), (1, 22))]
    found = on_eight_devices([*meshes, *parts])
    assert found[0]["resets"] >= 3
    whole, moved = found[: len(meshes)], found[len(meshes) :]
    two, last = run_in_two_processes([case | {"mesh": [1, 8]}, moving | {"mesh": [1, 8]}])
    whole.append(two)
    assert [len(part["losses"]) for part in (*moved, last)] == [7, 8, 7, 8]
    whole.append({"losses": np.concatenate([part["losses"] for part in (*moved, last)])})
    assert max(differences(whole)) <= 1e-12, differences(whole)


def test_pool_axis():
    """Members of a row one after another in the program, and in a loop as on accelerators."""
    in_a_loop = on_meshes(FOUR | {"platform": "tpu"}, [2, 2])
    found = on_eight_devices([*on_meshes(FOUR, [1, 1], [2, 2], [4, 2]), *in_a_loop])
    assert found[0]["resets"] >= 6
    assert max(differences(found)) <= 1e-12, differences(found)


def test_pool_axis_alone():
    found = on_eight_devices(on_meshes(EIGHT, [1, 1], [8, 1]))
    assert max(differences(found)) <= 1e-12, differences(found)


def test_primal_minibatch_and_chunks():
    """More rows than features, online minibatches that do not divide, chunks of unequal size."""
    found = on_eight_devices(
        [
            *on_meshes(PRIMAL, [1, 1], [1, 8]),
            *on_meshes(PRIMAL | {"chunk": 4}, [1, 8]),
            *on_meshes(PRIMAL | {"chunk": 7}, [1, 1]),
            *on_meshes(PRIMAL | {"form": "dual"}, [1, 4]),
        ]
    )
    assert max(differences(found)) <= 1e-9, differences(found)


def test_spread_factorisation():
    """The blocked factorisation, whole and spread over the axis, in both forms; then two processes.

    N = 45, d = 64, blocks of 4 and 6: the last block is partly padding, devices hold several, and
    some of them one that is only zeros.
    """
    found = on_eight_devices(
        [
            *on_meshes(FACTORED, [1, 1]),
            *on_meshes(BLOCKED, [1, 2]),
            *on_meshes(SPREAD, [1, 8], [2, 4]),
            *on_meshes(SPREAD | {"form": "primal", "block": 6}, [1, 4]),
        ]
    )
    found = [*found, *run_in_two_processes(on_meshes(SPREAD, [2, 4]))]
    assert max(differences(found)) <= 1e-9, differences(found)


def test_rcig_with_all_switches(tmp_path):
    """Conjugate gradients over uneven shards, and a run that moves with its average.

    The iterations are unrolled on one device, and in a loop on meshes, as on accelerators. There
    the factorisation is spread, in both forms; then in two processes.
    """
    spread = RCIG_SPREAD | {"mesh": [2, 4]}
    primal = RCIG_SPREAD | {"mesh": [1, 4], "form": "primal", "block": 6, "chunk": 4}
    moving = {"checkpoints": str(tmp_path)}
    found = on_eight_devices(
        [
            *on_meshes(RCIG, [1, 1]),
            spread,
            primal,
            primal | moving | {"steps": 3},
            spread | moving,
        ]
    )
    *whole, first, second = found
    whole.append({"losses": first["losses"] + second["losses"]})
    whole.extend(run_in_two_processes([spread]))
    assert max(differences(whole)) <= 1e-9, differences(whole)


def test_rcig_in_float32():
    """With the regression of accelerators, which is iterative."""
    case = RCIG | {"platform": "tpu", "dtype": "float32", "precision": "float32", "ridge": 1e-3}
    found = on_eight_devices(on_meshes(case, [1, 1], [2, 4]))
    assert not np.array([np.array(f["losses"])[:, 2] for f in found]).any()
    assert max(differences(found)) <= 1e-3, differences(found)


def test_frozen_nets_with_augmentation(tmp_path):
    """More rows than features, uneven shards, two nets in a pool of four, a run that moves."""
    moving = AUGMENTED | {"checkpoints": str(tmp_path)}
    found = on_eight_devices(
        [
            *on_meshes(AUGMENTED, [1, 1], [2, 4]),
            moving | {"mesh": [2, 4], "steps": 4},
            moving | {"mesh": [1, 1]},
        ]
    )
    *whole, first, second = found
    whole.append({"losses": first["losses"] + second["losses"]})
    assert max(differences(whole)) <= 1e-9, differences(whole)


def test_float32():
    found = on_eight_devices(on_meshes(FLOAT32, [1, 1], [1, 8], [2, 4]))
    raised = np.array([np.array(f["losses"])[:, 2] for f in found])
    assert not raised.any()
    assert max(differences(found)) <= 1e-3, differences(found)
