"""The pod recipe's outer step, compiled for the pod without one: memory and collectives.

With a smaller net, half as many images and less effort of the compiler, so that it compiles in a
fraction of the time: still dual, spread over the axis "data" and dominated by its features.
docs/measurements.md has the recipes themselves, compiled by `benchmarks/plan_memory.py`.
"""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from processes import finished, one_at_a_time, start

from frepo_scale.plan.compilers import TPU_FOLDER, lock_path

PROGRAM = Path(__file__).with_name("tpu_compile_run.py")
# launch/test.sh puts the compiler here: where JAX could find it by itself, every program on a
# machine without a TPU would try to start one.
APART = Path(sys.prefix) / TPU_FOLDER

SETTINGS = {"WIDTH": 16, "DEPTH": 2, "IPC": 5}
ROWS, DATA, IMAGE, CLASSES, DIM = 5000, 4, 64 * 64 * 3, 1000, 16 * 16 * 32
FEATURES = ROWS * DIM * 4
WEIGHTS = DIM * CLASSES * 4
PARAMETERS = 4 * (9 * (3 * 16 + 16 * 32) + DIM * CLASSES)
BLOCK_ROW = 256 * 5120 * 4
MIB = 2**20


@pytest.fixture(scope="module")
def compiled():
    if not APART.is_dir() and importlib.util.find_spec("libtpu") is None:
        pytest.skip("no TPU compiler: launch/test.sh, or pip install frepo-scale[tpu]")
    with one_at_a_time(lock_path()):
        process = start(
            *(PROGRAM, "imagenet1k_ipc10.gin", "v5e:4x4", json.dumps(SETTINGS)),
            devices=1,
            paths=[APART],
        )
        out = finished(process, timeout=1500)
    (line,) = [x for x in out.splitlines() if x.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.slow
def test_it_fits(compiled):
    """Of the 16 GB of a v5e device."""
    cost = compiled["cost"]
    assert cost["arguments"] + cost["temporary"] + cost["code"] < 16e9
    # The features of all rows are there, so the figure is not that of something smaller.
    assert compiled["cost"]["temporary"] > FEATURES


@pytest.mark.slow
def test_the_estimate_from_shapes_is_near(compiled):
    """`plan --quick` against `memory_analysis()`: within a tenth; state and batch almost exact."""
    cost, estimate = compiled["cost"], compiled["estimate"]
    total = cost["arguments"] + cost["temporary"] + cost["code"]
    assert estimate["total"] == pytest.approx(total, rel=0.1)
    assert estimate["arguments"] == pytest.approx(cost["arguments"], rel=0.02)


@pytest.mark.slow
def test_collectives_of_the_step(compiled):
    found = compiled["found"]
    assert {c["axis"] for c in found} <= {"data", "pool", "both"}
    assert {c["kind"] for c in found} <= {
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "collective-permute",
    }

    def total(axis, *kinds):
        return sum(c["bytes"] for c in found if c["axis"] == axis and c["kind"] in kinds)

    # Over both axes norms and metrics; permutations are the edges of a scattered sum.
    assert total("both", "all-reduce", "all-gather", "reduce-scatter") <= MIB
    assert sum(c["bytes"] for c in found if c["kind"] == "collective-permute") <= MIB
    # The features once. Then arrays of R x K: the labels, and what the iterations of the two solves
    # in float32 gather, which is counted once for each loop.
    gathered = total("data", "all-gather")
    assert FEATURES <= gathered <= FEATURES + 4 * ROWS * CLASSES * 4
    # W and its gradient, the parameters' gradient, the minibatch's images, and of each loop of the
    # factorisation one block row (with its diagonal block and right-hand side).
    minibatch = 1000 * (IMAGE + CLASSES) * 4
    loops = BLOCK_ROW + 4 * 256 * (CLASSES + 256) * 4
    sums = total("data", "all-reduce", "reduce-scatter")
    assert sums <= 3 * WEIGHTS + PARAMETERS + minibatch + loops + MIB
    # Each device's rows of the mean gradient.
    assert total("pool", "all-reduce") <= ROWS // DATA * (IMAGE + CLASSES) * 4 + MIB
    assert total("pool", "all-gather", "reduce-scatter") == 0
