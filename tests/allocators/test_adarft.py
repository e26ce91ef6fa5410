"""AdaRFT (arXiv 2504.05520): the target and the choice against a scalar twin; the profile is billed."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


def test_target_and_choice_are_those_of_a_scalar_twin():
    place = Coins(np.random.default_rng(1).uniform(size=(2, 40)), 4, 32)
    driven = begin(place, allocators.create("adarft"))
    target = [0.0, 0.0]
    for step in range(15):
        place.requests.clear()
        groups = run_step(place, driven).groups
        if step == 0:
            profile = place.requests[0]
            assert (profile.counts == 8).all()
            assert sorted(profile.prompts[0].tolist()) == list(range(40))
        assert (groups.discarded["profile"] == (40 * 8 if step == 0 else 0)).all()
        for row in range(2):
            difficulty = 100 * (1 - driven.rates[row])
            nearest = sorted(abs(d - target[row]) for d in difficulty)[:4]
            chosen = sorted(abs(difficulty[q] - target[row]) for q in groups.prompts[row])
            assert chosen == pytest.approx(nearest)
            reward = groups.successes[row].sum() / groups.counts[row].sum()
            target[row] = min(max(target[row] + 50 * np.tanh(2 * (reward - 0.5)), 0), 100)
        assert driven._target.tolist() == pytest.approx(target)
    assert (place.ledger.generated == 40 * 8 + 15 * 32).all()


def test_it_begins_at_the_easiest_and_moves_to_those_half_solved():
    p = np.tile(np.linspace(0, 1, 200), (10, 1))
    place = Coins(p, 8, 64)
    driven = begin(place, allocators.create("adarft[profile=64,eta=10]"))
    means = [p[0, run_step(place, driven).groups.prompts].mean() for _ in range(40)]
    assert means[0] > 0.9
    assert np.mean(means[-10:]) == pytest.approx(0.5, abs=0.1)


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="beta"):
        allocators.create("adarft[beta=1.5]")
