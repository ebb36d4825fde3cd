"""The algorithm of docs/how-to/algorithm.md runs from a recipe, is stopped and resumed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from code_of import module_from

from frepo_scale.main import main

SETTINGS = [
    *("ALGORITHM=matching.DistributionMatching", "ALGORITHM_ARGS={'learning_rate': 0.5}"),
    *("STEPS=20", "PROBE_EVERY=10", "PROBE_NETS=1", "PROBE_STEPS=10", "SAVE_EVERY=10"),
    *("LOG_EVERY=1", "EVAL_NETS=1", "EVAL_STEPS=10", "FULL_DATA=False", "WIDTH=4", "BATCH=64"),
]


@pytest.fixture
def page(tmp_path, monkeypatch):
    lines = module_from("how-to/algorithm.md", tmp_path, "matching")
    assert lines <= 50
    monkeypatch.syspath_prepend(str(tmp_path))


def distill(workdir, *more):
    settings = [f"--gin.{setting}" for setting in (*SETTINGS, *more)]
    return main(["distill", "digits_ipc1", "--workdir", str(workdir), *settings])


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def test_the_algorithm_of_the_page_distils_stops_and_resumes(page, tmp_path, monkeypatch):
    assert distill(tmp_path / "whole") == 0
    losses = rows(tmp_path / "whole")
    assert list(losses) == list(range(1, 21))
    assert np.mean([losses[s] for s in range(16, 21)]) < np.mean([losses[s] for s in range(1, 6)])

    import matching

    step = matching.DistributionMatching.step
    traced = []

    def stopping(self, state, batch):
        # While the first step is traced: the loop sees the signal before its second step.
        if not traced:
            signal.raise_signal(signal.SIGTERM)
        traced.append(1)
        return step(self, state, batch)

    monkeypatch.setattr(matching.DistributionMatching, "step", stopping)
    assert distill(tmp_path / "stopped") == 42
    assert distill(tmp_path / "stopped") == 0
    assert rows(tmp_path / "stopped") == losses
    sets = [np.load(tmp_path / name / "distilled.npz") for name in ("whole", "stopped")]
    assert np.array_equal(sets[0]["images"], sets[1]["images"])


@pytest.mark.slow
def test_it_runs_on_several_devices(page, tmp_path):
    """In a process of its own: the number of devices is fixed when JAX starts."""
    settings = [f"--gin.{setting}" for setting in SETTINGS]
    done = subprocess.run(
        [sys.executable, "-m", "frepo_scale.main", "distill", "digits_ipc1", *settings],
        cwd=tmp_path,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    losses = rows(tmp_path / "runs" / "digits_ipc1")
    assert list(losses) == list(range(1, 21)) and np.isfinite(list(losses.values())).all()


def test_what_is_not_an_algorithm_is_refused(page, capsys, tmp_path):
    for wrong, message in (
        ("ALGORITHM=matching.State", "Algorithm"),
        ("ALGORITHM=matching.Nothing", "matching.Nothing"),
        ("ALGORITHM_ARGS={'learning_rat': 1}", "learning_rate"),
        ("ALGORITHM_ARGS={1: 2}", "ALGORITHM_ARGS"),
    ):
        assert distill(tmp_path / "w", wrong) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    base = "ALGORITHM=frepo_scale.distill.algorithm.Algorithm"  # lacks the required methods
    assert distill(tmp_path / "w", base, "ALGORITHM_ARGS={}") == 2
    assert "init" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
