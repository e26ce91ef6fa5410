"""SPEED-RL (arXiv 2506.09016)."""

import numpy as np
import pytest
from scripted import Coins, held_by

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, Outcomes


@pytest.mark.parametrize(
    ("group_size", "phases"), [(24, (4, 20)), (16, (4, 12)), (8, (4, 4)), (4, (2, 2)), (2, (2, 0))]
)
def test_screening_takes_four_rollouts(group_size, phases):
    assert allocators.create("speed").phases(Budget(4, 4 * group_size)) == phases


def test_prompts_with_both_rewards_are_kept():
    k = np.arange(5)[None]
    outcomes = Outcomes(k, np.full_like(k, 4), k)
    assert allocators.create("speed").informative(outcomes)[0].tolist() == [False, True, True, True, False]


def test_one_stage_a_step_and_a_bounded_buffer():
    """At p = 1/2 seven of eight candidates are kept: the buffer is full, and its oldest entries go."""
    place = Coins(np.full((2, 1600), 0.5), 8, 8 * 16)
    driven = begin(place, allocators.create("speed"))
    for step in range(20):
        groups = run_step(place, driven).groups
        assert (groups.counts == 16).all()
        assert (place.ledger.step_generated == 32 * 4 * (1 + (step == 0)) + 8 * 12).all()
        assert (driven._held.size <= 24).all()
    assert (held_by(driven) == 24 * 4).all()
    assert driven._held.steps.min() >= 18  # about 28 of 32 candidates enter in a step
    assert place.ledger.stages.tolist() == [21, 21]
    assert (place.ledger.discarded["expired"] > 0).all()
