"""VIGOR (arXiv 2607.22002): rounds, survivors, and what a step costs."""

import numpy as np
import pytest
from scripted import Coins, Scripted, trained

from rolloutbench.allocators import allocators
from rolloutbench.protocol import InputError


def test_every_round_costs_the_same():
    """B = 16, m0 = 2: 16 x 2, 8 x 4, 4 x 8, 2 x 16; the survivors have 30 rollouts."""
    place = Coins(np.full((5, 16), 0.5), 16, 128)
    trained("vigor", place, 3)
    assert [int((r.counts[0] > 0).sum()) for r in place.requests] == [16, 8, 4, 2] * 3
    assert [int(r.counts[0].max()) for r in place.requests] == [2, 4, 8, 16] * 3
    assert (place.ledger.generated == 3 * 128).all()
    assert sorted(place.updates[0].counts[0].tolist()) == [2] * 8 + [6] * 4 + [14] * 2 + [30] * 2


def test_survivors_are_those_whose_rewards_vary_most():
    """Of 8 prompts the 4 with one success in two go on, then the 2 with three in six."""
    tape = np.zeros((1, 8, 64), dtype=int)
    tape[0, :4, 0] = 1  # k = 1 of 2
    tape[0, 4:6, :2] = 1  # 2 of 2
    tape[0, :2, 2:4] = 1  # 3 of 6, where prompts 2 and 3 have 1 of 6
    place = Scripted(np.zeros((1, 8)), 8, 64, tape=tape)
    trained("vigor[rounds=3]", place, 1)
    asked = [set(r.prompts[0][r.counts[0] > 0].tolist()) for r in place.requests]
    assert asked == [set(range(8)), {0, 1, 2, 3}, {0, 1}]


def test_ties_are_broken_by_chance():
    place = Coins(np.zeros((3000, 4)), 4, 32)
    trained("vigor[rounds=2]", place, 1)
    second = place.requests[1]
    for q in range(4):
        found = ((second.prompts == q) & (second.counts > 0)).any(axis=1).mean()
        assert found == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 3000))


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="rounds"):
        allocators.create("vigor[rounds=0]")
