"""Actions and values of process 0 for all processes."""

import json
from pathlib import Path

import numpy as np
import pytest
from processes import finished, free_address, start

from frepo_scale.core.errors import InputError
from frepo_scale.parallel.share import of_first, on_first, on_host

PROGRAM = Path(__file__).parent / "share_run.py"


def test_alone():
    done = []
    on_first(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(InputError):
        on_first(lambda: (_ for _ in ()).throw(InputError("x", "y")))
    tree = {"x": np.arange(3)}
    assert of_first(tree) is tree
    np.testing.assert_array_equal(on_host(tree)["x"], tree["x"])


@pytest.mark.slow
def test_two_processes():
    group = free_address(), 2
    running = [start(PROGRAM, *group, number, devices=2) for number in range(2)]
    lines = [
        next(line for line in finished(process).splitlines() if line.startswith("found "))
        for process in running
    ]
    first, second = (json.loads(line.removeprefix("found ")) for line in lines)
    for found in (first, second):
        assert found["spread"] and found["types"] and found["same"] == 7.0
        assert found["of_first"] == [1.5] * 3
    assert first["ends"] == ["done", "InputError", "RunError"] and first["did"] == 1
    assert second["ends"] == ["done", "code 2", "code 1"] and second["did"] == 0
