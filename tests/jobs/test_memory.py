"""What an error about memory says to lower."""

import re

import pytest

from frepo_scale import config
from frepo_scale.jobs import memory
from frepo_scale.jobs.memory import fraction_that_fits, what_to_lower
from frepo_scale.jobs.run import build_run

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "limit", "held", "share"),
    [
        ("Ran out of memory in memory space hbm. Used 20.00G of 15.00G hbm. Exceeded", 0, 0, 0.75),
        ("Used 8.00G of 512.00M hbm.", 0, 0, 0.0625),
        ("Out of memory while trying to allocate 4294967296 bytes.", 4 * GIB, GIB, 0.75),
        ("Out of memory allocating 8589934592 bytes.", 4 * GIB, 0, 0.5),
        ("Failed to allocate request for 2.00GiB (2147483648B) on device", 2 * GIB, GIB, 0.5),
        ("Out of memory while trying to allocate 4294967296 bytes.", 0, 0, 1.0),
        ("Out of memory while trying to allocate 10 bytes.", GIB, 2 * GIB, 0.0),
        ("CUBLAS_STATUS_ALLOC_FAILED", GIB, 0, 1.0),
    ],
)
def test_how_much_of_it_fits(text, limit, held, share):
    assert fraction_that_fits(text, limit, held) == pytest.approx(share)


def test_the_advice_has_values_that_suit_the_run(monkeypatch):
    settings = {"WIDTH": "4", "BATCH": "64", "CHUNK": "1024", "POOL_SIZE": "3"}
    run = build_run(config.load_recipe(config.find_recipe("digits_ipc1"), settings))
    text = "Out of memory while trying to allocate 4000 bytes."
    # Of a chunk of 1024 the run uses 64, the batch.
    assert "--gin.CHUNK=32 " not in what_to_lower(run, text)
    assert "--gin.CHUNK=32;" in what_to_lower(run, text)
    monkeypatch.setattr(memory, "_memory", lambda device: (1500, 500))
    advice = what_to_lower(run, text)
    assert "--gin.CHUNK=16 (4.0 times" in advice
    for now in ("POOL_SIZE (now 3", "BATCH (now 64)", "WIDTH (now 4)", "--workdir"):
        assert now in advice
    assert float(re.search(r"takes ([\d.]+) MiB", advice)[1]) > 0
    monkeypatch.setattr(memory, "_memory", lambda device: (500, 500))
    assert "CHUNK" not in what_to_lower(run, text)  # it would not help
