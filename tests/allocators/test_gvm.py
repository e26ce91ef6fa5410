"""GVM (arXiv 2505.02391): the rule, the sum, and the order of a shard."""

import math

import numpy as np
import pytest
from scripted import Coins, trained

from rolloutbench.allocators import allocators
from rolloutbench.allocators.rounding import largest_remainder
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Outcomes


def test_the_rule():
    k = np.arange(9)[None]
    shares = allocators.create("gvm").shares(Outcomes(k, np.full_like(k, 8), k))[0]
    expected = [0.0] + [1 / math.sqrt(j / 8 + 0.001 / (j / 8)) for j in range(1, 9)]
    assert shares.tolist() == pytest.approx(expected)
    steep = allocators.create("gvm[alpha=0.1,beta=3]").shares(Outcomes(k, np.full_like(k, 8), k))[0]
    assert steep[2] == pytest.approx(1 / math.sqrt(0.25 + 0.1 / 0.25**2))


def test_an_iteration():
    """Pilots once, then the shard's batches in order with counts that sum to its budget."""
    place = Coins(np.random.default_rng(0).uniform(0, 0.6, size=(3, 60)), 4, 32)
    driven = begin(place, allocators.create("gvm[shard_steps=5]"))
    for iteration in range(3):
        place.requests.clear()
        place.updates.clear()
        before = place.ledger.generated.copy()
        for step in range(5):
            groups = run_step(place, driven).groups
            assert (groups.discarded["pilots"] == (20 * 8 if step == 0 else 0)).all()
        pilots, *batches = place.requests
        assert len(batches) == 5
        assert (pilots.counts == 8).all()
        asked = np.concatenate([b.prompts for b in batches], axis=1)
        np.testing.assert_array_equal(asked, pilots.prompts)
        counts = np.concatenate([b.counts for b in batches], axis=1)
        assert (counts.sum(axis=1) == 20 * 8).all()
        assert (place.ledger.generated - before == 2 * 20 * 8).all(), iteration
        kept = np.concatenate([g.prompts for g in place.updates], axis=1)
        np.testing.assert_array_equal(kept, np.where(counts > 0, asked, -1))


def test_counts_are_the_rounded_shares():
    place = Coins(np.random.default_rng(0).uniform(0, 0.6, size=(2, 20)), 4, 32)
    driven = begin(place, allocators.create("gvm[shard_steps=5]"))
    outcomes = []
    generate = place.generate
    place.generate = lambda request: outcomes.append(generate(request)) or outcomes[-1]
    for _ in range(5):
        run_step(place, driven)
    expected = largest_remainder(driven.shares(outcomes[0]), np.array([160, 160]))
    np.testing.assert_array_equal(np.concatenate([o.counts for o in outcomes[1:]], axis=1), expected)


def test_a_shard_without_any_success_costs_its_pilots_only():
    place = Coins(np.zeros((2, 30)), 5, 40)
    trained("gvm[shard_steps=3]", place, 6)
    assert (place.ledger.generated == 2 * 15 * 8).all()
    assert all((groups.prompts == -1).all() for groups in place.updates)
