"""E3's dynamic rollout budget: bounds that widen, and ranks against a loop."""

import numpy as np
import pytest
from scripted import Coins, trained

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


def test_the_first_epoch_has_equal_groups_and_later_ones_wider_bounds():
    """n = 8: 8..8, then 6..10, then 4..12 and no wider; hard prompts get more; the sum never grows."""
    p = np.linspace(0, 1, 24)[None].repeat(3, axis=0)
    place = Coins(p, 8, 64)
    driven = begin(place, allocators.create("e3"))
    seen = []
    for _ in range(12):
        run_step(place, driven)
        seen.append(place.requests[-1].counts.copy())
        assert (seen[-1].sum(axis=1) <= 64).all()
    assert all((counts == 8).all() for counts in seen[:3])
    assert min(counts.min() for counts in seen[3:6]) == 6
    assert min(counts.min() for counts in seen[6:]) == 4
    hard = place.requests[-1].prompts < 8  # p grows with the number
    assert place.requests[-1].counts[hard].mean() > place.requests[-1].counts[~hard].mean()


def test_ranks_are_places_by_mean_reward_and_equal_means_share_them():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, size=(4, 30))
    successes = rng.binomial(counts, 0.4)
    found = allocators.class_of("e3").ranks(counts, successes)
    for row in range(4):
        means = [k / n if n else 0.0 for n, k in zip(counts[row], successes[row], strict=True)]
        for q in range(30):
            above = sum(m > means[q] for m in means)
            equal = sum(m == means[q] for m in means)
            assert found[row, q] == pytest.approx((above + (equal - 1) / 2) / 30)


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="low=9 is above high=8"):
        allocators.create("e3[low=9,high=8]")


def test_a_batch_of_the_epochs_end_spends_no_more_than_its_share():
    place = Coins(np.full((2, 6), 0.5), 4, 32)
    trained("e3", place, 9)
    assert (place.ledger.generated <= 9 * 32).all()
