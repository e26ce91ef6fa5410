"""DARS (arXiv 2508.13755): the sum of advantages, what is trained on, and the bill."""

import numpy as np
import pytest
from scripted import Coins, Scripted, trained

from rolloutbench.allocators import allocators
from rolloutbench.protocol import InputError, Outcomes


def test_equal_treatment_brings_the_sum_of_advantages_to_its_peak():
    """(N + dN) 2 u (1 - u) is at least N / 2, and would not be with one rollout less."""
    n = 16
    k = np.arange(1, n // 2)[None]
    more = allocators.create("dars").further(Outcomes(k, np.full_like(k, n), k), n, 10**6)
    score = 2 * (k / n) * (1 - k / n)
    assert ((n + more) * score >= n / 2 - 1e-9).all()
    assert ((n + more - 1) * score < n / 2).all()


def test_a_step():
    """Prompt 0 fails 8 times, then succeeds once; 1 always succeeds and leaves; 2 has 4 of 8."""
    tape = np.zeros((1, 3, 64), dtype=int)
    tape[0, 0, 10], tape[0, 1], tape[0, 2, ::2] = 1, 1, 1
    place = Scripted(np.full((1, 3), 0.5), 3, 24, tape=tape)
    trained("dars", place, 1)
    first, second = place.requests
    assert (first.counts == 8).all()
    by_prompt = dict(zip(second.prompts[0].tolist(), second.counts[0].tolist(), strict=True))
    assert by_prompt == {0: 24, 1: 0, 2: 0}
    groups = place.updates[0]
    kept = {
        int(q): (int(k), int(f))
        for q, k, f in zip(*(a[0] for a in (groups.prompts, groups.successes, groups.failures)), strict=True)
    }
    assert kept == {0: (1, 31), -1: (0, 0), 2: (4, 4)}
    assert groups.discarded["filtered"].tolist() == [8]


def test_the_bill_is_that_of_the_expected_second_round():
    """At p = 1/4 dN follows from k; the mean over many prompts within 4 standard errors."""
    place = Coins(np.full((500, 8), 0.25), 8, 64)
    trained("dars", place, 1)
    chance = np.array([0.75**8 * 1.0] + [0.0] * 8)
    for k in range(1, 9):
        chance[k] = chance[k - 1] * (8 - k + 1) / k / 3
    more = np.array([24, 11, 3, 1, 0, 0, 0, 0, 0])  # of the authors' code, tests/faithful/dars.toml
    mean = (chance * more).sum()
    error = np.sqrt((chance * (more - mean) ** 2).sum() / 4000)
    assert (place.ledger.generated.mean() - 64) / 8 == pytest.approx(mean, abs=4 * error)


def test_a_ceiling_below_the_first_round_is_refused():
    with pytest.raises(InputError, match="most=4: the first round alone has 8"):
        trained("dars[most=4]", Coins(np.full((1, 4), 0.5), 4, 32), 1)
