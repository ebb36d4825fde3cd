"""Membership attacks on made-up outputs, and the standard error of their AUC."""

import math

import numpy as np
import pytest

from frepo_scale.evaluate import membership_attacks
from frepo_scale.evaluate.membership_attacks import ATTACKS, Outputs, run_attacks, standard_error


def outputs(rng, n, shift):
    """Logits and losses of n images; `shift` makes members' losses smaller."""
    logits = rng.normal(size=(n, 3)).astype(np.float32)
    logits[:, 0] += shift
    return Outputs(logits, np.exp(rng.normal(size=n) - shift).astype(np.float32))


def test_the_standard_error_by_hand():
    # A = 1/2: Q1 = Q2 = 1/3, (1/4 + 2 * 99 / 12) / 10 000.
    assert standard_error(0.5, 100, 100) == pytest.approx(math.sqrt(16.75) / 100)
    # A = 3/4, m = 10, o = 20: Q1 = 3/5, Q2 = 9/14, (3/16 + 9 * 3/80 + 19 * 9/112) / 200.
    expected = math.sqrt((3 / 16 + 9 * 3 / 80 + 19 * 9 / 112) / 200)
    assert standard_error(0.75, 10, 20) == pytest.approx(expected)
    assert standard_error(1.0, 10, 10) == standard_error(0.0, 10, 10) == 0.0


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_the_standard_error_is_the_spread_over_draws_of_images(shift):
    rng = np.random.default_rng(0)
    members = rng.exponential(size=(4000, 40)) + 0  # the formula is exact for exponentials
    others = rng.exponential(size=(4000, 60)) * math.exp(-shift)
    greater = members[:, :, None] > others[:, None, :]
    aucs = greater.mean(axis=(1, 2))
    assert aucs.std() == pytest.approx(standard_error(aucs.mean(), 40, 60), rel=0.05)


def test_attacks_find_members_that_differ():
    rng = np.random.default_rng(1)
    found = run_attacks(outputs(rng, 400, 3.0), outputs(rng, 300, 0.0), 0)
    assert found.keys() == ATTACKS.keys()
    assert all(auc.value > 0.9 for auc in found.values())


def test_attacks_guess_where_members_do_not_differ():
    rng = np.random.default_rng(2)
    found = run_attacks(outputs(rng, 300, 0.0), outputs(rng, 400, 0.0), 0)
    for auc in found.values():
        assert abs(auc.value - 0.5) < 4 * auc.standard_error
    # Judged on the halves they were not trained on; the threshold on everything.
    assert found["threshold"].standard_error == standard_error(found["threshold"].value, 300, 300)
    assert found["forest"].standard_error == standard_error(found["forest"].value, 150, 150)


def test_a_trained_attack_is_not_judged_on_what_it_learned():
    """Images that all differ can be learned by heart, but say nothing of others."""
    rng = np.random.default_rng(3)
    same = outputs(rng, 500, 0.0)
    half = run_attacks(same.take(np.arange(250)), same.take(np.arange(250, 500)), 0)
    assert abs(half["forest"].value - 0.5) < 4 * half["forest"].standard_error


def test_attacks_repeat_and_are_bounded(monkeypatch):
    rng = np.random.default_rng(4)
    members, others = outputs(rng, 60, 1.0), outputs(rng, 80, 0.0)
    assert run_attacks(members, others, 5) == run_attacks(members, others, 5)
    monkeypatch.setattr(membership_attacks, "MOST", 20)
    few = run_attacks(members, others, 5)["threshold"]
    assert few.standard_error == standard_error(few.value, 20, 20)
