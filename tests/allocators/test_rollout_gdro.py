"""Rollout-GDRO (arXiv 2601.19280): shares of the bins."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin
from rolloutbench.protocol import Budget, InputError


def test_prompts_that_are_missing_get_nothing():
    place = Coins(np.full((2, 9), 0.5), 8, 64)
    driven = begin(place, allocators.create("rollout_gdro"))
    counts = driven.allocate(np.tile([*range(4), -1, *range(4, 8)], (2, 1)), Budget(8, 64))
    assert counts.tolist() == [[8] * 4 + [0] + [8] * 4] * 2


def test_shares_are_those_of_exp3():
    place = Coins(np.full((1, 4), 0.5), 4, 32)
    driven = begin(place, allocators.create("rollout_gdro[eta=2,gamma=0.3]"))
    driven._difficulty[0] = [0.9, np.nan, 0.5, 0.3, np.nan, 0.1, 0.0]
    found = driven.shares(np.array([[1, 0, 2, 1, 0, 0, 3]]))[0]
    scores = np.exp(2 * np.array([0.9, 0.5, 0.3, 0.0]))
    assert found[[0, 2, 3, 6]] == pytest.approx(0.7 * scores / scores.sum() + 0.3 / 4)
    assert found[[1, 4, 5]].tolist() == [0, 0, 0]


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="gamma"):
        allocators.create("rollout_gdro[gamma=2]")
