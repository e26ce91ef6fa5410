"""PODS (arXiv 2504.13818): the subset has the greatest variance there is."""

import itertools

import numpy as np
import pytest
from scripted import Coins, trained

from rolloutbench.allocators.down_sampling import balanced
from rolloutbench.protocol import Outcomes


@pytest.mark.parametrize("n", range(1, 8))
def test_no_subset_has_more_variance(n):
    for k, m in itertools.product(range(n + 1), range(1, n + 1)):
        rewards = [1] * k + [0] * (n - k)
        best = max(np.var(subset) for subset in itertools.combinations(rewards, m))
        one = np.array([[0]])
        kept, failed = balanced(Outcomes(one, one + n, one + k), m)
        assert kept + failed == m
        assert 0 <= kept <= k
        assert 0 <= failed <= n - k
        assert np.var([1] * kept.item() + [0] * failed.item()) == pytest.approx(best)


def test_ties_of_an_odd_subset_and_short_groups():
    counts, successes = np.array([[8, 8, 2, 0]]), np.array([[4, 7, 2, 0]])
    kept, failed = balanced(Outcomes(np.arange(4)[None], counts, successes), 5)
    assert kept.tolist() == [[2, 4, 2, 0]]
    assert failed.tolist() == [[3, 1, 0, 0]]


@pytest.mark.parametrize(("divide", "trained_on"), [(1, 16), (2, 8), (4, 4), (16, 2)])
def test_everything_is_paid_for(divide, trained_on):
    place = Coins(np.random.default_rng(0).uniform(size=(3, 8)), 8, 128)
    trained(f"pods[divide={divide}]", place, 4)
    for groups in place.updates:
        assert (groups.counts == trained_on).all()
    assert (place.ledger.generated == 4 * 128).all()
    assert (place.ledger.discarded["unselected"] == 4 * 8 * (16 - trained_on)).all()
