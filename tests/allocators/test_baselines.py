"""DBB (arXiv 2603.18444) and the pooled baseline, over the groups of other allocators."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.estimators import group_advantages
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


@pytest.mark.parametrize("of", ["uniform", "dapo", "ar3po[reuse=none]"])
def test_dbb_is_that_of_a_scalar_twin(of):
    """alpha <- alpha / 2 + k, beta <- beta / 2 + n - k; A = (r - p) / (sqrt(p (1 - p)) + 1e-6)."""
    place = Coins(np.random.default_rng(1).beta(0.4, 0.4, size=(2, 16)), 4, 32)
    driven = begin(place, allocators.create(f"dbb[of={of}]"))
    posterior = [{}, {}]
    for _ in range(25):
        groups = run_step(place, driven).groups
        plus, minus, _ = group_advantages(place.setting.estimator, groups)
        for row in range(2):
            for column, q in enumerate(groups.prompts[row]):
                k, f = groups.successes[row, column], groups.failures[row, column]
                if q < 0 or k + f == 0:
                    continue
                alpha, beta = posterior[row].get(q, (1.0, 1.0))
                alpha, beta = posterior[row][q] = alpha / 2 + k, beta / 2 + f
                p = alpha / (alpha + beta)
                scale = groups.weights[row, column]
                spread = np.sqrt(p * (1 - p)) + 1e-6
                assert plus[row, column] * scale == pytest.approx((1 - p) / spread)
                assert minus[row, column] * scale == pytest.approx(-p / spread)


@pytest.mark.parametrize("solved", [0.0, 1.0])
def test_dbb_stays_finite_where_every_visit_was_the_same(solved):
    """After a thousand visits the posterior is 0 or 1 in floating point."""
    place = Coins(np.full((1, 4), solved), 4, 32)
    driven = begin(place, allocators.create("dbb"))
    for _ in range(1100):
        groups = run_step(place, driven).groups
    assert groups.baseline == pytest.approx(solved)
    assert groups.weights == pytest.approx(1e6, rel=1e-3)


def test_groups_of_equal_rewards_keep_a_gradient():
    place = Coins(np.ones((1, 4)), 4, 32)
    driven = begin(place, allocators.create("dbb[std=false]"))
    groups = run_step(place, driven).groups
    assert groups.baseline == pytest.approx(8.5 / 9)
    assert (groups.weights == 1).all()


def test_a_pooled_baseline_over_the_batch_and_over_the_prompt():
    for over in ("batch", "prompt"):
        place = Coins(np.random.default_rng(2).uniform(size=(2, 12)), 4, 32)
        driven = begin(place, allocators.create(f"pooled_baseline[over={over}]"))
        n, k = np.zeros((2, 2, 12))
        for _ in range(8):
            groups = run_step(place, driven).groups
            for row in range(2):
                n[row, groups.prompts[row]] += groups.counts[row]
                k[row, groups.prompts[row]] += groups.successes[row]
                if over == "batch":
                    expected = [groups.successes[row].sum() / 32] * 4
                else:
                    expected = (k[row] / np.maximum(n[row], 1))[groups.prompts[row]]
                assert groups.baseline[row] == pytest.approx(expected)


def test_they_behave_as_the_allocator_that_they_wrap():
    for name in ("dbb", "pooled_baseline"):
        wrapped = allocators.create(f"{name}[of=dapo]")
        assert not wrapped.hard_budget
        assert not wrapped.one_shot
        place = Coins(np.random.default_rng(0).uniform(size=(2, 60)), 4, 32)
        alone = Coins(np.random.default_rng(0).uniform(size=(2, 60)), 4, 32)
        left, right = begin(place, wrapped), begin(alone, allocators.create("dapo"))
        for _ in range(4):
            mine, theirs = run_step(place, left).groups, run_step(alone, right).groups
            np.testing.assert_array_equal(mine.prompts, theirs.prompts)
            np.testing.assert_array_equal(mine.successes, theirs.successes)
            assert mine.discarded.keys() == theirs.discarded.keys()


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="discount"):
        allocators.create("dbb[discount=1.5]")
    with pytest.raises(InputError, match="over"):
        allocators.create("pooled_baseline[over=life]")
