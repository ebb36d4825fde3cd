"""Promise 1: the mesh places the algorithm and never changes it.

Thirty outer steps with flip, BatchNorm and resets, on real meshes of virtual CPU devices and on two
real processes, against one device. Float64 is the sharp test: in float32 Adam's sign-like first
steps turn rounding into steps.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("mesh_run.py")


def start(cases, devices, *arguments):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), json.dumps(cases), *map(str, arguments)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-3000:]
    (line,) = [x for x in out.splitlines() if x.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def run(cases, devices=8):
    return result(start(cases, devices))


def differences(found):
    """Largest relative difference of any loss of any case to the first case."""
    first, *others = (np.array(f["losses"])[:, :2] for f in found)
    return [float(np.abs(other / first - 1).max()) for other in others]


def test_data_axis_and_two_processes():
    """N = 10 over 4 and 8 devices: uneven and empty shards. rows = 20 <= d / 8 = 32."""
    case = {"members": 1}
    found = run([case | {"mesh": [1, data]} for data in (1, 2, 4, 8)])
    assert found[0]["resets"] >= 3
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [start([case | {"mesh": [1, 8]}], 4, address, 2, own) for own in (0, 1)]
    two = [result(process) for process in pair]
    assert two[0] == two[1]
    found += two[0]
    assert max(differences(found)) <= 1e-12, differences(found)


def test_pool_axis():
    case = {"members": 4, "steps": 30}
    found = run([case | {"mesh": mesh} for mesh in ([1, 1], [2, 2], [4, 2])])
    assert found[0]["resets"] >= 6
    assert max(differences(found)) <= 1e-12, differences(found)


def test_pool_axis_alone():
    case = {"members": 8, "width": 4, "flip": False}
    found = run([case | {"mesh": mesh} for mesh in ([1, 1], [8, 1])])
    assert max(differences(found)) <= 1e-12, differences(found)


def test_primal_minibatch_and_chunks():
    """More rows than features, online minibatches that do not divide, chunks of unequal size."""
    case = {"members": 1, "width": 2, "size": 45, "form": "primal", "online": 11, "ridge": 1e-4}
    found = run(
        [
            case | {"mesh": [1, 1]},
            case | {"mesh": [1, 8]},
            case | {"mesh": [1, 8], "chunk": 4},
            case | {"mesh": [1, 1], "chunk": 7},
            case | {"mesh": [1, 4], "form": "dual"},
        ]
    )
    assert max(differences(found)) <= 1e-9, differences(found)


def test_float32():
    case = {"members": 2, "dtype": "float32", "ridge": 1e-3}
    found = run([case | {"mesh": mesh} for mesh in ([1, 1], [1, 8], [2, 4])])
    raised = np.array([np.array(f["losses"])[:, 2] for f in found])
    assert not raised.any()
    assert max(differences(found)) <= 1e-3, differences(found)
