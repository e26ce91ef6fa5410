"""The steps shared by predictors on the logit scale, against scipy's quadrature and root finding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, spatial, special, stats
from synthetic import begun, setting

from rolloutbench.predictors import predictors
from rolloutbench.predictors.features import median_length_scale
from rolloutbench.predictors.logit import Logits, binomial_observation, clipped_logit, logistic_normal
from rolloutbench.protocol import InputError, Setting


@pytest.mark.parametrize("mean", [-30.0, -12.0, -3.0, -0.4, 0.0, 1.0, 7.0])
@pytest.mark.parametrize("std", [1e-6, 0.1, 1.0, 2.5, 5.0])
def test_moments_of_a_sigmoid(mean, std):
    belief = logistic_normal(Logits(np.array([[mean]]), np.array([[std**2]])))

    def moment(f):
        low, high = mean - 12 * std, mean + 12 * std
        between = [x for x in (-2.0, 0.0, 2.0, mean) if low < x < high]
        density = stats.norm(mean, std).pdf
        return integrate.quad(
            lambda g: f(special.expit(g)) * density(g), low, high, points=between, limit=500
        )[0]

    expected = moment(lambda p: p)
    assert belief.mean[0, 0] == pytest.approx(expected, abs=2e-8)
    assert belief.variance[0, 0] == pytest.approx(moment(lambda p: (p - expected) ** 2), abs=4e-8)


def test_a_certain_logit_is_a_certain_probability():
    belief = logistic_normal(Logits(np.array([[-800.0, 0.0, 40.0]]), np.zeros((1, 3))))
    np.testing.assert_allclose(belief.mean, special.expit([[-800.0, 0.0, 40.0]]), atol=1e-15)
    np.testing.assert_allclose(belief.variance, 0, atol=1e-30)


@given(st.floats(-15, 15), st.floats(1e-6, 100), st.integers(1, 200), st.floats(0, 1))
def test_observation_times_belief_is_the_laplace_approximation(mean, variance, n, share):
    k = round(share * n)
    value, precision = (
        float(a[0, 0])
        for a in binomial_observation(
            Logits(np.array([[mean]]), np.array([[variance]])), np.array([[k]]), np.array([[n]])
        )
    )
    slope = lambda g: (g - mean) / variance + n * special.expit(g) - k  # noqa: E731
    mode = optimize.brentq(slope, mean - variance * n - 1, mean + variance * n + 1, xtol=1e-13)
    p = special.expit(mode)
    assert precision == pytest.approx(max(n * p * (1 - p), 1e-12), rel=1e-6)
    posterior = (mean / variance + precision * value) / (1 / variance + precision)
    assert posterior == pytest.approx(mode, abs=1e-6)


def test_every_prompt_stops_at_its_own_mode():
    """Whoever is beside a prompt, its answer is that of Newton steps without end, and the same to the bit."""
    rng = np.random.default_rng(5)
    belief = Logits(rng.normal(0, 6, (3, 400)), np.exp(rng.normal(0, 2, (3, 400))))
    n = rng.integers(0, 200, (3, 400))
    k = rng.binomial(n, rng.random(n.shape))
    value, precision = binomial_observation(belief, k, n)
    mode = np.where((k - n * special.expit(belief.mean)) * belief.mean > 0, belief.mean, 0.0)
    for _ in range(60):
        p = special.expit(mode)
        slope = mode - belief.mean + belief.variance * (n * p - k)
        mode = mode - slope / (1 + belief.variance * n * p * (1 - p))
    p = special.expit(mode)
    information = n * p * (1 - p)
    np.testing.assert_allclose(precision, np.where(n > 0, np.maximum(information, 1e-12), 0), rtol=1e-10)
    there = information > 1e-6
    expected = mode[there] + (k - n * p)[there] / information[there]
    np.testing.assert_allclose(value[there], expected, rtol=1e-8, atol=1e-12)
    for place in range(0, 400, 40):
        one = Logits(*(part[1:2, place : place + 1] for part in belief))
        alone = binomial_observation(one, k[1:2, place : place + 1], n[1:2, place : place + 1])
        assert (alone.value[0, 0], alone.precision[0, 0]) == (value[1, place], precision[1, place])


def test_no_rollouts_say_nothing_and_surprises_do_not_overshoot():
    belief = Logits(np.array([[-4.0, -4.0, 600.0]]), np.ones((1, 3)))
    observed = binomial_observation(belief, np.array([[0, 8, 8]]), np.array([[0, 8, 8]]))
    assert observed.precision[0, 0] == 0
    assert observed.value[0, 0] == -4
    assert np.isfinite(observed.value).all()
    gain = observed.precision[0, 1] / (1 + observed.precision[0, 1])
    assert abs(-4 + gain * (observed.value[0, 1] + 4)) < 0.1


def test_clipped_logit():
    logit = clipped_logit(np.array([[0, 4, 2, 0]]), np.array([[4, 4, 8, 0]]), 1e-6)
    np.testing.assert_allclose(logit, [[-13.815510, 13.815510, np.log(1 / 3), 0.0]], rtol=1e-6)


def test_median_length_scale():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((2, 90, 5)) + 1000
    expected = [np.median(spatial.distance.pdist(one)) for one in features]
    np.testing.assert_allclose(median_length_scale(features), expected)
    large = rng.standard_normal((1, 20_000, 4)).astype(np.float32)
    sample = large[0, rng.integers(20_000, size=3000)]
    assert median_length_scale(large)[0] == pytest.approx(np.median(spatial.distance.pdist(sample)), rel=0.08)
    assert median_length_scale(np.ones((3, 7, 2))).tolist() == [1, 1, 1]
    assert median_length_scale(np.ones((3, 1, 2))).tolist() == [1, 1, 1]


@pytest.mark.parametrize("spec", ["gp", "sparse_gp", "svgp", "ridge", "ensemble"])
def test_features_are_needed(spec):
    place = setting(np.zeros((1, 3, 2)))
    without = Setting(place.budget, place.estimator, "prompt", 1, 3, place.rng)
    with pytest.raises(InputError, match="needs a feature vector for each prompt.*predictor=beta"):
        predictors.create(spec).begin(without)
    begun(spec, np.zeros((1, 3, 2)))
