"""AERO (arXiv 2602.14338): exploration, rescue, and what is trained on."""

import numpy as np
import pytest
from scripted import Scripted, trained

from rolloutbench.allocators import allocators
from rolloutbench.protocol import InputError


def stepped(first_success=(), successes=()):
    """One step over prompts whose j-th rollout is right, or whose first s of 8 are: what is kept of each."""
    tape = np.zeros((1, len(first_success) + len(successes), 64), dtype=int)
    for q, j in enumerate(first_success):
        if j is not None:
            tape[0, q, j] = 1
    for q, s in enumerate(successes, start=len(first_success)):
        tape[0, q, :s] = 1
    place = Scripted(np.zeros(tape.shape[:2]), tape.shape[1], 8 * tape.shape[1], tape=tape)
    trained("aero", place, 1)
    groups = place.updates[0]
    order = np.argsort(groups.prompts[0])
    return place, [(groups.successes[0, q].item(), groups.failures[0, q].item()) for q in order]


def test_rescue_ends_at_a_success_or_at_twice_the_group():
    place, kept = stepped(first_success=[None, 8, 11, 15])
    asked = sum(r.counts for r in place.requests)[0]
    by_prompt = asked[np.argsort(place.requests[0].prompts[0])]
    assert by_prompt.tolist() == [16, 10, 12, 16]
    assert len(place.requests) == 5
    assert kept == [(0, 0), (1, 1), (1, 1), (1, 1)]


def test_hard_groups_are_balanced_and_easy_ones_kept():
    place, kept = stepped(successes=[1, 3, 4, 6])
    assert kept == [(1, 1), (3, 3), (4, 4), (6, 2)]
    assert place.updates[0].discarded["unselected"].tolist() == [6 + 2]


def test_equal_rewards_are_not_trained_on():
    place, kept = stepped(first_success=[None], successes=[8, 4])
    assert kept == [(0, 0), (0, 0), (4, 4)]
    assert place.updates[0].discarded["unselected"].tolist() == [16 + 8]


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="per_rescue"):
        allocators.create("aero[per_rescue=0]")
