"""Difficulty pools: who is drawn from which pool, who is evicted, and who returns."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.allocators.pools import EASY, HARD, NORMAL
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


def made(pools, spec="pools", prompts=10):
    place = Coins(np.full((len(pools), len(pools[0])), 0.5), prompts, 8 * prompts)
    driven = begin(place, allocators.create(spec))
    driven._pool[:] = pools
    return place, driven


def drawn_from(place, driven):
    """How many of a batch come from each pool, (R, 3)."""
    pool = driven._pool.copy()
    prompts = driven.choose(np.ones(pool.shape, dtype=bool), place.setting.budget.prompts)
    assert all(len(set(row)) == prompts.shape[1] for row in prompts.tolist())
    return [np.bincount(pool[row][q], minlength=3).tolist() for row, q in enumerate(prompts)]


def test_shares_of_the_pools():
    """10% of 10 from easy and from hard; what they lack is normal; an empty normal pool is filled up."""
    pools = [
        [NORMAL] * 20 + [HARD] * 10 + [EASY] * 10,
        [NORMAL] * 40,
        [NORMAL] * 3 + [HARD] * 5 + [EASY] * 32,
        [EASY] * 40,
    ]
    found = drawn_from(*made(pools))
    assert found == [[8, 1, 1], [10, 0, 0], [3, 5, 2], [0, 0, 10]]


def test_every_prompt_of_a_pool_is_as_likely():
    _, driven = made([[NORMAL] * 20 + [HARD] * 4 + [EASY] * 4] * 3000, "pools[easy=0.2,hard=0.1]")
    prompts = driven.choose(np.ones(driven._pool.shape, dtype=bool), 10)
    found = np.array([(prompts == q).any(axis=1).mean() for q in range(28)])
    expected = np.array([7 / 20] * 20 + [1 / 4] * 4 + [2 / 4] * 4)
    assert (np.abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / 3000)).all()


def test_eviction_and_return():
    """Rates above .8 and below .2 leave; with no shares for them nobody is tried again."""
    p = np.repeat([0.0, 0.5, 1.0], 20)[None]
    place = Coins(p, 10, 160)
    driven = begin(place, allocators.create("pools[easy=0,hard=0]"))
    for _ in range(12):
        run_step(place, driven)
    assert (driven._pool[0, :20] != EASY).all()
    assert (driven._pool[0, 40:] != HARD).all()
    assert (p[0, run_step(place, driven).groups.prompts] == 0.5).mean() > 0.9

    driven._pool[0, 20:30] = EASY  # solved half of the time by now, and evicted
    recycling = begin(place, allocators.create("pools[easy=0.5,hard=0]"))
    recycling._pool[:] = driven._pool
    for _ in range(6):
        run_step(place, recycling)
    assert (recycling._pool[0, 20:30] == EASY).sum() < 10


def test_contradictions_are_refused():
    with pytest.raises(InputError, match="easy=0.7, hard=0.6"):
        allocators.create("pools[easy=0.7,hard=0.6]")
    with pytest.raises(InputError, match="hard_below=0.9 is above easy_above=0.8"):
        allocators.create("pools[hard_below=0.9]")
