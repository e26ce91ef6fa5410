"""HORA (arXiv 2605.07114): hit utilities against the Beta-binomial, counts against brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scripted import Coins, trained

from rolloutbench.allocators import allocators
from rolloutbench.protocol import InputError, Outcomes


def utility(n, k, m):
    """Posterior chance of a success among m more rollouts, of Beta(1 + k, 1 + n - k)."""
    return 1 - stats.betabinom.pmf(0, m, 1 + k, 1 + n - k)


def outcomes(n, k):
    k = np.array([k])
    return Outcomes(np.arange(k.shape[1])[None], np.full_like(k, n), k)


def test_gains_add_up_to_the_hit_utility():
    seen = outcomes(4, [0, 1, 2, 3, 4])
    found = np.cumsum(allocators.class_of("hora").gains(seen, 10), axis=1)[0]
    for column, k in enumerate(range(5)):
        assert found[:, column] == pytest.approx([utility(4, k, m) for m in range(1, 11)])


@pytest.mark.parametrize("k", [[0, 2, 4], [1, 1, 3], [0, 0, 4], [2, 3, 4]])
def test_counts_are_the_best_of_all(k):
    rest = 7
    found = allocators.create("hora").further(outcomes(4, k), np.array([rest]))[0]
    assert found.sum() == rest
    best = max(
        sum(utility(4, k_i, m) for k_i, m in zip(k, split, strict=True))
        for split in itertools.product(range(rest + 1), repeat=3)
        if sum(split) == rest
    )
    assert sum(utility(4, k_i, m) for k_i, m in zip(k, found, strict=True)) == pytest.approx(best)


def test_a_step_spends_the_budget():
    place = Coins(np.random.default_rng(0).uniform(size=(3, 40)), 8, 64)
    trained("hora", place, 5)
    assert (place.ledger.generated == 5 * 64).all()
    assert all((r.counts == 4).all() for r in place.requests[::2])
    assert any(np.ptp(r.counts) > 1 for r in place.requests[1::2])


def test_a_first_stage_above_the_group_is_refused():
    with pytest.raises(InputError, match="first=9: the group has 8 rollouts"):
        trained("hora[first=9]", Coins(np.full((1, 4), 0.5), 4, 32), 1)
