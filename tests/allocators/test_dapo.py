"""DAPO's dynamic sampling (arXiv 2503.14476)."""

import numpy as np
import pytest
from scipy import stats
from scripted import Coins, trained

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("oversample", [1, 3])
def test_rounds_and_shares(p, oversample):
    """A candidate is kept with 1 - p^n - (1-p)^n, and round t is needed unless t-1 rounds kept B."""
    n, batch = 4, 8
    place = Coins(np.full((1500, 100), p), batch, batch * n)
    trained(f"dapo[oversample={oversample},max_rounds=400]", place, 1)
    keep = 1 - p**n - (1 - p) ** n
    rounds = place.ledger.stages
    t = np.arange(400)
    pmf = -np.diff(stats.binom.cdf(batch - 1, t * oversample * batch, keep))
    expected = ((t[1:]) * pmf).sum()
    spread = np.sqrt(((t[1:] - expected) ** 2 * pmf).sum())
    assert rounds.mean() == pytest.approx(expected, abs=4 * spread / np.sqrt(1500))
    np.testing.assert_array_equal(place.ledger.generated, rounds * oversample * batch * n)
    groups = place.updates[0]
    assert ((groups.successes > 0) & (groups.failures > 0)).all()
    assert (groups.counts == n).all()
    gone = place.ledger.discarded
    np.testing.assert_array_equal(gone["filtered"] + gone["surplus"] + batch * n, place.ledger.generated)
    # Kept in the first round, whatever happens later: Binomial(s B, keep).
    candidates = oversample * batch
    only_one = rounds == 1
    if only_one.all():
        kept = candidates - gone["filtered"] / n
        assert kept.mean() == pytest.approx(candidates * keep, abs=4 * kept.std() / np.sqrt(1500))


def test_published_cost():
    """Three times GRPO's rollouts where one round is enough."""
    place = Coins(np.full((2, 500), 0.5), 16, 16 * 8)
    trained("dapo", place, 10)
    assert (place.ledger.generated == 10 * 3 * 16 * 8).all()


def test_carried_groups_come_first_and_save_a_round():
    place = Coins(np.full((3, 500), 0.5), 8, 8 * 8)
    driven = begin(place, allocators.create("dapo[carry=true]"))
    generated = []
    for _ in range(9):
        carried = driven._carried
        groups = run_step(place, driven).groups
        first = min(carried.size.min(), 8)
        np.testing.assert_array_equal(groups.prompts[:, :first], carried.prompts[:, :first])
        assert (groups.prompts >= 0).all()
        generated.append(place.ledger.step_generated.copy())
    assert (np.array(generated) == 0).any()
    assert (place.ledger.discarded["surplus"] == 0).all()


def test_a_batch_that_does_not_fill_is_trained_on_as_it_is():
    p = np.zeros((2, 40))
    p[:, :3] = 0.5
    place = Coins(p, 8, 8 * 16)
    trained("dapo[oversample=1,max_rounds=5]", place, 1)
    groups = place.updates[0]
    assert (np.sort(groups.prompts, axis=1)[:, :5] == -1).all()
    assert (place.ledger.generated == 5 * 8 * 16).all()
    assert groups.prompts.max() <= 2
