"""The best set is the first one with the best accuracy."""

from types import SimpleNamespace

import numpy as np
import pytest

from frepo_scale.evaluate.protocol import Score
from frepo_scale.train import probing


def probe_of(accuracies, monkeypatch):
    """A probe whose networks give these accuracies, without networks; a step becomes the best."""
    given = iter(accuracies)
    monkeypatch.setattr(probing, "unpadded", lambda distilled, size: distilled)
    monkeypatch.setattr(
        probing,
        "make_keep_as_best",
        # As a state holds it: float32.
        lambda algorithm, state: (
            lambda state, score: SimpleNamespace(
                algorithm=state.algorithm,
                best=SimpleNamespace(score=np.float32(score), step=state.algorithm.step),
            )
        ),
    )
    return probing.HeldOutProbe(
        SimpleNamespace(problem=SimpleNamespace(size=1), distilled=lambda state: state),
        SimpleNamespace(probe=lambda *arguments: Score(next(given), 0.0, 3)),
        np.zeros(100),
        10,
        chance_probes=0,
        at_chance=0,
        give_up=pytest.fail,
        show=lambda distilled, step: None,
    )


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.5, 0.7, 0.7, 0.6], 1),  # 0.7 as float32 is below 0.7, so the third would seem better
        ([0.7, np.nextafter(0.7, 1), np.nextafter(0.7, 0)], 0),  # the same as float32
        ([0.1, 0.2, 0.3, 0.2], 2),
        ([0.6, 0.5], 0),
    ],
)
def test_ties_keep_the_first(accuracies, best, monkeypatch):
    probe = probe_of(accuracies, monkeypatch)
    kept = SimpleNamespace(score=np.float32(-1), step=-1)
    for step in range(len(accuracies)):
        state = SimpleNamespace(algorithm=SimpleNamespace(step=step), best=kept)
        state, metrics = probe(state, step)
        kept = state.best
        assert metrics["probe_accuracy"] == np.float32(accuracies[step])
    assert kept.step == best
