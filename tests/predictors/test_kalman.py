"""The filter against a loop over single prompts, and its population prior against the truth."""

import numpy as np
import pytest
from scipy import special
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors.logit import Logits, binomial_observation
from rolloutbench.protocol import Outcomes


class Slow:
    """One replicate with lists of visits instead of sums."""

    def __init__(self, size, by):
        self.by, self.step = by, 0
        self.own = [None] * size  # value, variance at the last visit, step of it
        self.sums = by.prior_prompts * np.array([1, by.prior_mean, by.prior_mean**2 + by.prior_variance])

    def belief(self, q):
        mean = self.sums[1] / self.sums[0]
        variance = max(self.sums[2] / self.sums[0] - mean**2, 1e-2)
        if self.own[q] is None:
            return mean, variance
        value, spread, when = self.own[q]
        spread += self.by.drift * (self.step - when)
        together = 1 / (1 / variance + 1 / spread)
        return together * (mean / variance + value / spread), together

    def update(self, prompts, counts, successes):
        found, learned = {}, np.zeros(3)
        for q, n, k in zip(prompts, counts, successes, strict=True):
            if n == 0:
                continue
            mean, variance = self.belief(q)
            belief = Logits(np.array([[mean]]), np.array([[variance]]))
            value, precision = (
                float(a[0, 0]) for a in binomial_observation(belief, np.array([[k]]), np.array([[n]]))
            )
            after = 1 / (1 / variance + precision)
            centre = after * (mean / variance + precision * value)
            learned += [1, centre, centre**2 + after]
            spread = 1 / precision
            if self.own[q] is not None:
                old, old_spread, when = self.own[q]
                old_spread += self.by.drift * (self.step - when)
                value = (old / old_spread + value / spread) / (1 / old_spread + 1 / spread)
                spread = 1 / (1 / old_spread + 1 / spread)
            found[q] = value, spread, self.step
        for q, own in found.items():
            self.own[q] = own
        if found:
            self.sums = self.by.forgetting * self.sums + learned
            self.step += 1


@pytest.mark.parametrize("spec", ["kalman", "kalman[drift=0.3,prior_mean=-1,prior_prompts=3,forgetting=0.5]"])
def test_it_is_the_slow_twin(spec):
    _, success = pool(2, 40)
    rng = np.random.default_rng(11)
    fast = begun(spec, np.zeros((2, 40, 1)))
    slow = [Slow(40, fast) for _ in range(2)]
    for step in range(6):
        outcomes = visit(rng, success, batches(rng, 2, 40, 15))
        if step == 3:
            outcomes.counts[0] = outcomes.successes[0] = 0
        fast.update(outcomes)
        for r, one in enumerate(slow):
            one.update(outcomes.prompts[r], outcomes.counts[r], outcomes.successes[r])
        expected = np.array([[one.belief(q) for q in range(40)] for one in slow])
        found = fast.logits(everyone(2, 40))
        np.testing.assert_allclose(found.mean, expected[..., 0], atol=1e-9)
        np.testing.assert_allclose(found.variance, expected[..., 1], atol=1e-9)


def test_the_prior_of_unseen_prompts_is_the_population():
    """Many prompts with logits N(-1.5, 1.2^2), eight rollouts each; unseen ones are predicted by those.

    The mode of a prompt that never succeeded lies above its posterior mean: hence the wide margins.
    """
    rng = np.random.default_rng(12)
    success = special.expit(rng.normal(-1.5, 1.2, size=(4, 3000)))
    predictor = begun("kalman[drift=0]", np.zeros((4, 3001, 1)))
    for start in range(0, 3000, 100):
        predictor.update(visit(rng, success, np.tile(np.arange(start, start + 100), (4, 1)), 8, 8))
    unseen = predictor.logits(np.full((4, 1), 3000))
    assert unseen.mean.mean() == pytest.approx(-1.5, abs=0.25)
    assert np.sqrt(unseen.variance).mean() == pytest.approx(1.2, abs=0.25)
    assert predictor.predict(np.full((4, 1), 3000)).mean.mean() == pytest.approx(success.mean(), abs=0.03)


def test_old_visits_count_less():
    predictor = begun("kalman[drift=0.5]", np.zeros((1, 3, 1)))
    predictor.update(Outcomes(np.array([[0]]), np.array([[16]]), np.array([[15]])))
    fresh = predictor.logits(np.array([[0]]))
    for _ in range(40):
        predictor.update(Outcomes(np.array([[1, 2]]), np.array([[8, 8]]), np.array([[2, 6]])))
    old, unseen_like = predictor.logits(np.array([[0]])), predictor._prior(predictor.centre(np.array([[0]])))
    assert abs(old.mean - unseen_like.mean) < abs(fresh.mean - unseen_like.mean) / 2
    assert 0.9 * unseen_like.variance < old.variance < unseen_like.variance
