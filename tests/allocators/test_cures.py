"""CurES (arXiv 2510.01037): counts by the authors' formula, iterations, and the order of sampling."""

import numpy as np
import pytest
from scripted import Coins, trained

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError, Outcomes


def test_counts_follow_the_spread_of_the_pilots():
    """sigma^2 = a b^2 + a^2 b - 0 with gradients of norm 1, a = k/4, b = 1 - a; rounded one by one."""
    k = np.array([[0, 1, 2, 3, 4, 2, 1]])
    found = allocators.create("cures").counts(Outcomes(k, np.full_like(k, 4), k), 8)[0]
    sigma = [np.sqrt(a * (1 - a) ** 2 + a**2 * (1 - a)) for a in k[0] / 4]
    assert found.tolist() == [round(7 * 8 * s / sum(sigma)) for s in sigma]
    assert found[[0, 4]].tolist() == [0, 0]


def test_an_iteration():
    """Pilots once, then all prompts of the shard in batches; what has no spread is left out."""
    place = Coins(np.random.default_rng(0).uniform(0, 1, size=(3, 60)), 4, 32)
    driven = begin(place, allocators.create("cures[shard_steps=5]"))
    for _ in range(3):
        place.requests.clear()
        for step in range(5):
            groups = run_step(place, driven).groups
            assert (groups.discarded["pilots"] == (20 * 4 if step == 0 else 0)).all()
            assert ((groups.prompts >= 0) == (groups.counts > 0)).all()
        pilots, *batches = place.requests
        asked = np.concatenate([b.prompts for b in batches], axis=1)
        assert (np.sort(asked, axis=1) == np.sort(pilots.prompts, axis=1)).all()
        total = np.concatenate([b.counts for b in batches], axis=1).sum(axis=1)
        assert (np.abs(total - 20 * 8) <= 10).all()  # each of 20 counts is rounded by at most 1/2


def test_a_larger_shard_is_sampled_by_the_posterior():
    """At a low temperature those with 2 of 4 successes are drawn before those with 0 or 4."""
    place = Coins(np.random.default_rng(0).choice([0.0, 0.5, 1.0], size=(20, 64)), 8, 64)
    trained("cures[shard_steps=2,oversample=4,temperature=0.01]", place, 2)
    pilots = place.requests[0]
    assert pilots.prompts.shape == (20, 64)
    chosen = np.concatenate([request.prompts for request in place.requests[1:]], axis=1)
    assert (np.take_along_axis(place.p, chosen, axis=1) == 0.5).mean() > 0.95
    assert (place.ledger.discarded["pilots"] == 64 * 4).all()


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(InputError, match="temperature"):
        allocators.create("cures[temperature=0]")
