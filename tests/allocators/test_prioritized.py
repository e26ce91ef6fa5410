"""Kimi k1.5's prioritised sampling (arXiv 2501.12599): prompts in proportion to failure rates."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


def test_chances_are_failure_rates():
    """One prompt a step, at p = 1, .5 and 0: chances 0, 1/3 and 2/3, within 4 standard errors."""
    p = np.tile([1.0, 0.5, 0.0], (4000, 1))
    place = Coins(p, 1, 8)
    driven = begin(place, allocators.create("prioritized[predictor=oracle]"))
    chosen = run_step(place, driven).groups.prompts[:, 0]
    for q, chance in enumerate([0, 1 / 3, 2 / 3]):
        error = 4 * np.sqrt(chance * (1 - chance) / 4000)
        assert (chosen == q).mean() == pytest.approx(chance, abs=error + 1e-12)


def test_what_was_never_seen_comes_before_what_is_solved():
    place = Coins(np.ones((5, 40)), 10, 80)
    driven = begin(place, allocators.create("prioritized"))
    seen = np.concatenate([run_step(place, driven).groups.prompts for _ in range(4)], axis=1)
    assert all(len(set(row)) == 40 for row in seen.tolist())


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="unknown predictor"):
        allocators.create("prioritized[predictor=nobody]")
