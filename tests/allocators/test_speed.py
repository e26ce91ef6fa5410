"""SPEED-RL (arXiv 2506.09016)."""

import numpy as np
import pytest
from scripted import Coins, Scripted, held_by

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, Outcomes, PromptStream


@pytest.mark.parametrize(
    ("group_size", "phases"), [(24, (4, 20)), (16, (4, 12)), (8, (4, 4)), (4, (2, 2)), (2, (2, 0))]
)
def test_screening_takes_four_rollouts(group_size, phases):
    assert allocators.create("speed").phases(Budget(4, 4 * group_size)) == phases


def test_prompts_with_both_rewards_are_kept():
    k = np.arange(5)[None]
    outcomes = Outcomes(k, np.full_like(k, 4), k)
    assert allocators.create("speed").informative(outcomes)[0].tolist() == [False, True, True, True, False]


def test_what_is_complete_waits_and_nothing_expires():
    """At p = 1/2 seven of eight candidates qualify, all are continued, and steps live off what waits."""
    place = Coins(np.full((2, 1600), 0.5), 8, 8 * 16)
    driven = begin(place, allocators.create("speed"))
    generated = []
    for _ in range(40):
        groups = run_step(place, driven).groups
        assert (groups.counts == 16).all()
        generated.append(place.ledger.step_generated.copy())
        np.testing.assert_array_equal(held_by(driven), place.ledger.held)
    assert "expired" not in place.ledger.discarded or not place.ledger.discarded["expired"].any()
    generated = np.array(generated)
    # 32 candidates cost 4 each, the 28 of them that qualify 12 more, and 8 groups are trained on in a step.
    nothing = (generated == 0).mean()
    assert nothing == pytest.approx(1 - 8 / 28, abs=0.05)
    assert generated.mean() == pytest.approx((32 * 4 + 28 * 12) * 8 / 28, rel=0.1)


def test_rollouts_of_the_first_steps():
    """Two prompts a step, 4 candidates a generation, 4 + 12 rollouts: 4 qualify, then 3, and 3."""
    stream = PromptStream(64, 1, np.random.SeedSequence(7))
    tape = np.tile(np.arange(2048) % 2, (1, 64, 1))
    for generation in range(8):
        candidates = stream.draw(4)[0]
        if generation in (1, 4, 6):  # the second of step 1, and those of steps 3 and 4: others are passed by
            tape[0, candidates[0]] = 1
    place = Scripted(np.full((1, 64), 0.5), 2, 32, seed=7, tape=tape)
    driven = begin(place, allocators.create("speed[oversample=2,n_init=4,n_continue=12]"))
    spent = []
    for _ in range(4):
        run_step(place, driven)
        spent.append(int(place.ledger.step_generated[0]))
    assert spent == [80, 0, 52, 52]
    assert place.ledger.stages.tolist() == [4]
