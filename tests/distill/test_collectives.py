"""What the compiled outer step sends over each mesh axis, and what it consists of.

Exact lists of collectives differ between JAX versions; a new kind or another order of magnitude
fails. Sizes are chosen so that what may travel (features, minibatch images, sums of the size of the
parameters) is far smaller than what may not (activations, the image set). Convolutions,
factorisations and transfers to the host are counted exactly.
"""

import json
from pathlib import Path

import pytest
from gpu_parts.hlo import counts
from processes import finished, start

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("mesh_hlo.py")
SIDE, SIZE, CLASSES, ONLINE = 32, 80, 5, 16
FEATURES = 2 * SIZE * 16 * 8 * 8 * 4  # R x d float32: what the dual form gathers
IMAGE = SIDE * SIDE * 3 * 4
IMAGE_SET = SIZE * IMAGE
ACTIVATIONS = 8 * SIDE * SIDE * 4  # of one image after the first convolution
PARAMETERS = 4 * (9 * 3 * 8 + 8 + 9 * 8 * 16 + 16 + 1024 * CLASSES + CLASSES + 16)
SMALL = 4096
# Two layers: features of the target batch and of the synthetic images, the gradient of the latter
# without a second forward pass, and the online step, which needs no gradient of its images.
CONVOLUTIONS = 2 + 2 + 2 + (2 + 1 + 2)


def collectives(mesh, members, folder, form="dual", online=ONLINE):
    text = folder / "step.hlo"
    case = {
        "text": str(text),
        "mesh": mesh,
        "members": members,
        "form": form,
        "online": online,
        "side": SIDE,
        "size": SIZE,
    }
    out = finished(start(PROGRAM, json.dumps(case), devices=8))
    (line,) = [x for x in out.splitlines() if x.startswith("RESULT ")]
    found = json.loads(line.removeprefix("RESULT "))
    assert found
    check_program(text.read_text())
    return found


def check_program(text):
    """One member's work on each device, whatever the mesh."""
    found = counts(text)
    assert found.convolutions == CONVOLUTIONS
    assert found.factorisations == 1
    assert found.host == 0
    assert "f64[" not in text  # the regression is in float32 here


def total(found, axis, *kinds):
    return sum(c["bytes"] for c in found if c["axis"] == axis and (not kinds or c["kind"] in kinds))


def check_axes(found):
    assert {c["axis"] for c in found} <= {"pool", "data", "both"}
    # Norms for LAMB and metrics are scalars; anything else over all devices is a mistake.
    assert total(found, "both") <= SMALL


def test_sizes_tell_the_allowed_from_the_forbidden():
    assert FEATURES < 0.7 * IMAGE_SET
    assert ONLINE * IMAGE < 0.3 * IMAGE_SET
    assert FEATURES < 0.3 * SIZE * ACTIVATIONS


def test_data_axis_dual(tmp_path):
    found = collectives([1, 8], members=1, folder=tmp_path)
    check_axes(found)
    data = [c for c in found if c["axis"] in ("data", "both")]
    assert {c["kind"] for c in data} <= {"all-reduce", "all-gather", "reduce-scatter"}
    # Features once, labels and solutions of the size of R x K.
    assert total(data, "data", "all-gather") <= FEATURES + 4 * 2 * SIZE * CLASSES * 4
    # The minibatch's images, each once.
    assert total(data, "data", "reduce-scatter") <= ONLINE * (IMAGE + CLASSES * 4)
    # Sums: W and its gradient (d x K, thrice), parameters' gradient, BatchNorm, metrics.
    weights = 3 * 1024 * CLASSES * 4
    assert total(data, "data", "all-reduce") <= weights + PARAMETERS + SMALL
    assert max(c["bytes"] for c in data) <= FEATURES


def test_data_axis_primal(tmp_path):
    """No features and no N x N matrix are sent: only d x d and d x K sums."""
    found = collectives([1, 8], members=1, folder=tmp_path, form="primal")
    check_axes(found)
    gram = 1024 * 1024 * 4
    assert total(found, "data", "all-gather") == 0
    weights = 3 * 1024 * CLASSES * 4
    assert total(found, "data", "all-reduce") <= gram + weights + PARAMETERS + SMALL


def test_pool_axis_sees_the_mean_gradient_and_metrics_only(tmp_path):
    found = collectives([4, 2], members=4, folder=tmp_path)
    check_axes(found)
    pool = [c for c in found if c["axis"] == "pool"]
    assert {c["kind"] for c in pool} == {"all-reduce"}
    local_gradient = (SIZE // 2) * (IMAGE + CLASSES * 4)
    assert total(pool, "pool") <= local_gradient + SMALL
