"""The runs that a series consists of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frepo_scale import config
from frepo_scale.core.errors import InputError
from frepo_scale.core.identity import scientific_settings
from frepo_scale.jobs.series_runs import class_parts, runs_of
from frepo_scale.jobs.settings import SeriesConfig


def recipe(**overrides):
    return config.load_recipe(config.find_recipe("digits_ipc1"), overrides)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31 - 1))
def test_parts_of_the_classes_are_disjoint_and_complete(classes, parts, seed):
    if parts > classes:
        with pytest.raises(InputError):
            class_parts(classes, parts, seed)
        return
    found = class_parts(classes, parts, seed)
    assert sorted(np.concatenate(found).tolist()) == list(range(classes))
    sizes = [len(part) for part in found]
    assert len(found) == parts and max(sizes) - min(sizes) <= 1
    assert all((np.diff(part) > 0).all() for part in found)


def test_the_seed_decides_the_order_of_the_classes_and_never_changes():
    of_seed_0 = [[1, 2, 6, 8], [5, 7, 9], [0, 3, 4]]
    assert [part.tolist() for part in class_parts(10, 3, 0)] == of_seed_0
    assert [part.tolist() for part in class_parts(10, 3, 1)] != of_seed_0


def test_runs_by_classes_and_by_chunks():
    by_classes = runs_of(recipe(SERIES="classes", SERIES_PARTS="3", SERIES_RUNS="2").config)
    assert [run.name for run in by_classes] == ["part_00", "part_01"]
    texts = [run.data.classes for run in by_classes]
    assert len(set(texts)) == 2 and all(run.data.chunk_of is None for run in by_classes)
    by_chunks = runs_of(recipe(SERIES="chunks", SERIES_PARTS="6", SERIES_RUNS="5").config)
    assert [run.data.chunk_of for run in by_chunks] == [f"{number}/6" for number in range(5)]


@pytest.mark.parametrize("by", ["classes", "chunks"])
def test_the_recipe_of_a_run_is_that_of_a_single_run(by):
    """A run of a series can be continued by itself, and does not depend on the others."""
    series = recipe(SERIES=by, SERIES_PARTS="7", SERIES_RUNS="3", EVALUATIONS="['continual']")
    plain = recipe()
    for run in runs_of(series.config):
        part = config.changed(series, run.changes)
        assert part.config.data == run.data
        assert replace(part.config, data=plain.config.data) == plain.config
        again = config.load_text("again", part.text, {})
        assert scientific_settings(again.config) == scientific_settings(part.config)


def test_a_hundred_and_one_folders_sort_in_order():
    settings = recipe(SERIES="chunks", SERIES_PARTS="101").config
    names = [run.name for run in runs_of(settings)]
    assert names == sorted(names) and names[-1] == "part_100"


def test_more_runs_than_parts_are_refused():
    with pytest.raises(InputError) as error:
        SeriesConfig("chunks", 5, 6)
    assert error.value.fix == "use --gin.SERIES_RUNS=5"
