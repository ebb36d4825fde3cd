"""MATMUL_PRECISION holds where nets are applied, in every job, and not after it."""

import jax
import numpy as np
import pytest

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.data.whitening import Preprocessing
from frepo_scale.export.formats import Export, write_npz
from frepo_scale.jobs import distill as distill_job
from frepo_scale.jobs import evaluate as evaluate_job
from frepo_scale.jobs import plan as plan_job


def stop():
    raise InputError(str(jax.config.jax_default_matmul_precision), "to be called")


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    found = config.find_recipe("digits_ipc1")
    return config.load_recipe(found, {"MATMUL_PRECISION": "highest", "WIDTH": "4"})


def test_distill(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(distill_job, "_Attempt", lambda *given: stop())
    with pytest.raises(InputError) as found:
        distill_job.distill(recipe, tmp_path / "w")
    assert found.value.what == "highest"
    assert jax.config.jax_default_matmul_precision is None
    assert "MATMUL_PRECISION = 'highest'" in (tmp_path / "w/operative_config.gin").read_text()


def test_evaluate(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_job, "evaluate_sets", lambda *given: stop())
    export = Export(
        images=np.zeros((10, 8, 8, 1), np.float32),
        labels=np.eye(10, dtype=np.float32),
        hard_labels=np.arange(10, dtype=np.int32),
        class_names=tuple("0123456789"),
        preprocessing=Preprocessing(np.zeros(1, np.float32), np.ones(1, np.float32), None),
        evaluation={},
        provenance={"recipe": "digits_ipc1", "config": recipe.text},
    )
    write_npz(tmp_path / "e.npz", export)
    with pytest.raises(InputError) as found:
        evaluate_job.evaluate(recipe.config, tmp_path / "e.npz")
    assert found.value.what == "highest"
    assert jax.config.jax_default_matmul_precision is None


def test_plan(recipe, monkeypatch):
    monkeypatch.setattr(plan_job, "compile_outer_step", lambda *given: stop())
    with pytest.raises(InputError) as found:
        plan_job.compile_recipe(recipe.config, jax.devices()[:1])
    assert found.value.what == "highest"
    assert jax.config.jax_default_matmul_precision is None
