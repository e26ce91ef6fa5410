"""C-GRPO: thresholds, groups that double, and a calibration that is billed."""

import numpy as np
import pytest
from scripted import Coins, Scripted, trained

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError, Outcomes

CGRPO = allocators.class_of("c_grpo")


def test_replicates_have_thresholds_of_their_own():
    """Those who are absent do not count; with nobody to calibrate on any success is enough."""
    scores = np.array([[0.5, 0.25], [0.5, 0.5], [1.0, 0.75], [1.0, 1.0]])
    padded = np.stack([np.vstack([scores, np.zeros((3, 2))]), np.zeros((7, 2))])
    present = np.stack([np.arange(7) < 4, np.zeros(7, dtype=bool)])
    # Three of four solved: delta = .3, so the ceil(5 * .7) = 4th smallest.
    assert CGRPO.thresholds(padded, present, 0.05).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    # delta = .65: the second smallest.
    assert CGRPO.thresholds(padded, present, 0.4).tolist() == [[0.5, 0.5], [1.0, 1.0]]


def test_who_stops():
    k = np.array([[0, 1, 2, 4]])
    seen = Outcomes(k, np.full_like(k, 4), k)
    assert CGRPO.stops(seen, np.array([[1.0]])).tolist() == [[False, True, True, True]]
    assert CGRPO.stops(seen, np.array([[0.5]])).tolist() == [[False, False, True, True]]


def test_groups_double_until_a_success():
    """Thresholds of 1: prompts stop at the first of 2, 4, 8, 16, 32 at which they have a success."""
    tape = np.zeros((1, 4, 64), dtype=int)
    tape[0, 0, 0], tape[0, 1, 2], tape[0, 2, 17] = 1, 1, 1
    place = Scripted(np.zeros((1, 4)), 4, 32, tape=tape)
    driven = begin(place, allocators.create("c_grpo"))
    driven._step = 1  # no calibration
    driven._thresholds = np.ones((1, 5))
    groups = run_step(place, driven).groups
    assert dict(zip(groups.prompts[0].tolist(), groups.counts[0].tolist(), strict=True)) == {
        0: 2,
        1: 4,
        2: 32,
        3: 32,
    }
    assert [int(r.counts.sum()) for r in place.requests] == [8, 6, 8, 16, 32]


def test_calibration_is_billed_and_its_prompts_are_held_out():
    place = Coins(np.random.default_rng(0).uniform(size=(2, 80)), 4, 32)
    driven = trained("c_grpo[calibration=6,every=3]", place, 7)
    assert (place.ledger.discarded["calibration"] == 3 * 6 * 32).all()
    held_out = driven._held_out
    for groups in place.updates:
        for row in range(2):
            assert not set(held_out[row].tolist()) & set(groups.prompts[row].tolist())


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="most"):
        allocators.create("c_grpo[most=1]")
