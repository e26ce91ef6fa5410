"""Fast-EMA: averages, weights and warm-up, against the rule of the authors' sampler in scalars."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


def test_averages_and_weights_are_those_of_a_scalar_twin():
    place = Coins(np.random.default_rng(1).uniform(size=(2, 30)), 5, 40)
    driven = begin(place, allocators.create("fast_ema[warmup=15]"))
    average = [{}, {}]
    for _ in range(25):
        seen = run_step(place, driven).outcomes
        for row in range(2):
            for q, n, k in zip(seen.prompts[row], seen.counts[row], seen.successes[row], strict=True):
                if n:
                    average[row][q] = 0.5 * average[row][q] + 0.5 * k / n if q in average[row] else k / n
    among = np.ones((2, 30), dtype=bool)
    among[:, 7] = False
    found = driven.weights(among)
    for row in range(2):
        scores = [
            4 * average[row][q] * (1 - average[row][q]) if q in average[row] and q != 7 else 0.0
            for q in range(30)
        ]
        expected = [0.9 * s / sum(scores) + 0.1 / 29 for s in scores]
        assert np.delete(found[row], 7) == pytest.approx(np.delete(expected, 7))
        assert found[row, 7] == 0


def test_warm_up_sees_every_prompt_once():
    """12 groups of warm-up in batches of 5: 5, 5 and 2 that nobody has seen; then any."""
    place = Coins(np.full((3, 30), 0.5), 5, 40)
    driven = begin(place, allocators.create("fast_ema[warmup=12,uniform=0]"))
    known = np.zeros((3, 30), dtype=bool)
    fresh = []
    for _ in range(6):
        prompts = run_step(place, driven).groups.prompts
        rows = np.arange(3)[:, None]
        fresh.append((~known[rows, prompts]).sum(axis=1).tolist())
        known[rows, prompts] = True
        assert all(len(set(row)) == 5 for row in prompts.tolist())
    assert fresh[:3] == [[5] * 3, [5] * 3, [2] * 3]
    assert fresh[3:] == [[0] * 3] * 3  # unseen prompts weigh nothing without a uniform share


def test_where_nobody_is_mixed_all_weigh_alike():
    place = Coins(np.zeros((1, 10)), 5, 40)
    driven = begin(place, allocators.create("fast_ema[warmup=5]"))
    run_step(place, driven)
    assert driven.weights(np.ones((1, 10), dtype=bool))[0] == pytest.approx(0.1)


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="uniform"):
        allocators.create("fast_ema[uniform=2]")
