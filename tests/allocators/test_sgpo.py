"""sGPO (arXiv 2606.08854): profile, filter, group sizes and order."""

import numpy as np
import pytest
from scripted import Coins, Scripted

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, InputError


def profiled(successes, spec="sgpo", prompts=4, group_size=8):
    """An sGPO whose profile has so many successes of 8 of each prompt, before its first step."""
    successes = np.array([successes])
    tape = (np.arange(8) < successes[..., None]).astype(int)
    place = Scripted(np.zeros(successes.shape), prompts, prompts * group_size, tape=tape)
    return place, begin(place, allocators.create(spec))


def test_group_sizes_are_the_powers_of_two_above_one_over_p():
    place, driven = profiled(range(9), prompts=9)
    run_step(place, driven)
    sizes = driven.sizes(np.arange(9)[None], Budget(9, 72))[0].tolist()
    # p = 0, 1/8, 2/8, 3/8, 4/8, ...: 8, 8, 4, 4 (1/p = 2.67), 2, and 2 above.
    assert sizes == [8, 8, 4, 4, 2, 2, 2, 2, 2]
    assert driven.sizes(np.array([[0, 2, -1]]), Budget(3, 96))[0].tolist() == [32, 4, 0]


def test_order_and_filter():
    """Above .75 nobody; from easy to hard; then anew; hopeless ones by chance, none here."""
    place, driven = profiled([8, 7, 6, 5, 4, 3, 2, 1, 0, 0], "sgpo[keep_hopeless=0]", prompts=4)
    order = [run_step(place, driven).groups.prompts[0].tolist() for _ in range(4)]
    assert order == [[2, 3, 4, 5], [6, 7, -1, -1], [2, 3, 4, 5], [6, 7, -1, -1]]
    assert place.ledger.discarded["profile"].tolist() == [80]
    assert place.ledger.generated.tolist() == [80 + 2 * (2 + 2 + 2 + 4 + 4 + 8)]


def test_a_tenth_of_the_hopeless_is_kept():
    place = Coins(np.zeros((200, 50)), 4, 32)
    driven = begin(place, allocators.create("sgpo"))
    run_step(place, driven)
    kept = (driven._order >= 0).sum() / (200 * 50)
    assert kept == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 10000))


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="drop_above"):
        allocators.create("sgpo[drop_above=1.5]")
