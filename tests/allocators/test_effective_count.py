"""The control that divides by the number of effective groups."""

import numpy as np
import pytest
from scripted import Coins, trained

from rolloutbench.estimators import prompt_shares, realised


@pytest.mark.parametrize("aggregation", ["prompt", "rollout"])
def test_it_is_the_mean_over_effective_groups(aggregation):
    p = np.random.default_rng(0).beta(0.4, 0.4, size=(50, 8))
    place = Coins(p, 8, 32)
    trained("effective_count", place, 1)
    groups = place.updates[0]
    x, _ = realised(place.setting.estimator, groups, place.p)
    mixed = (groups.successes > 0) & (groups.failures > 0)
    found = (prompt_shares(aggregation, groups) * x).sum(axis=1)
    assert mixed.sum(axis=1).min() < 8
    for row in range(50):
        expected = x[row, mixed[row]].mean() if mixed[row].any() else 0.0
        assert found[row] == pytest.approx(expected, abs=1e-12)


def test_absent_prompts_do_not_count():
    place = Coins(np.full((2, 3), 0.5), 8, 64)
    trained("effective_count", place, 1)
    groups = place.updates[0]
    mixed = ((groups.successes > 0) & (groups.failures > 0)).sum(axis=1)
    np.testing.assert_allclose(groups.weights[:, 0], 3 / mixed)
