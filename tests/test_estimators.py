import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import advantages_of, enumerated_moments, sampled_gradients
from scipy import stats

from rolloutbench.estimators import (
    binomial_pmf,
    binomial_rows,
    estimators,
    moment_table,
    moments,
    noise_table,
    prompt_shares,
    realised,
)
from rolloutbench.protocol import Groups, InputError

NAMES = ["reinforce", "dr_grpo", "rloo", "grpo"]
EDGES = [0.0, 1e-300, 1e-12, 0.02, 0.3, 0.5, 0.9, 1 - 1e-12, 1.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_advantages_are_those_of_the_rollouts(name, n):
    estimator = estimators.create(name)
    for k in range(n + 1):
        rewards = (1,) * k + (0,) * (n - k)
        expected = advantages_of(name, rewards)
        plus, minus = estimator.advantages(np.array([float(n)]), np.array([float(k)]))
        if k:
            assert plus[0] == pytest.approx(expected[0], abs=1e-12)
        if k < n:
            assert minus[0] == pytest.approx(expected[-1], abs=1e-12)


def test_published_advantages_of_six_in_eight():
    # research notes, "advantages as implemented": G = 8 with 6 correct.
    for spec, plus, minus in (
        ("grpo", 0.540, -1.620),
        ("grpo[ddof=0]", 0.577, -1.732),
        ("dr_grpo", 0.25, -0.75),
        ("rloo", 0.286, -0.857),
    ):
        found = estimators.create(spec).advantages(np.array([8.0]), np.array([6.0]))
        assert np.round(np.concatenate(found), 3).tolist() == [plus, minus]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p", EDGES)
@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_moments_equal_the_sum_over_all_reward_vectors(name, p, n):
    found = moments(estimators.create(name), np.array([p]), np.array([n]))
    signal, variance, noise = enumerated_moments(name, p, n)
    assert found.signal[0] == pytest.approx(signal, rel=1e-12, abs=1e-15)
    assert found.signal_variance[0] == pytest.approx(variance, rel=1e-9, abs=1e-15)
    assert found.noise[0] == pytest.approx(noise, rel=1e-12, abs=1e-15)


def test_moments_of_grpo_with_the_population_std():
    found = moments(estimators.create("grpo[ddof=0,eps=0.5]"), np.array([0.3]), np.array([5]))
    expected = enumerated_moments("grpo", 0.3, 5, ddof=0, eps=0.5)
    assert [found.signal[0], found.signal_variance[0], found.noise[0]] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", range(2, 41))
def test_noise_factors_are_vips_propositions(n):
    """arXiv 2602.01601, Propositions 4.2 and 4.3 (p. 5), without 4 sigma^2."""
    p = np.linspace(0, 1, 21)
    dr_grpo = moments(estimators.create("dr_grpo"), p, np.array(n)).noise
    rloo = moments(estimators.create("rloo"), p, np.array(n)).noise
    np.testing.assert_allclose(dr_grpo, (n - 1) / n**2 * p * (1 - p), rtol=1e-12, atol=1e-290)
    np.testing.assert_allclose(rloo, p * (1 - p) / (n - 1), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(("ddof", "factor"), [(0, lambda n: 1 / n), (1, lambda n: (n - 1) / n**2)])
def test_noise_factor_of_grpo_without_eps(ddof, factor):
    p, n = np.linspace(0.01, 0.99, 9), 6
    found = moments(estimators.create(f"grpo[ddof={ddof},eps=0]"), p, np.array(n)).noise
    np.testing.assert_allclose(found, factor(n) * (1 - p**n - (1 - p) ** n), rtol=1e-12)


def test_rloo_is_unbiased_and_dr_grpo_shrinks():
    p = np.linspace(0, 1, 11)
    for n in (2, 3, 8, 33):
        np.testing.assert_allclose(moments(estimators.create("rloo"), p, np.array(n)).bias, 0, atol=1e-15)
        shrunk = moments(estimators.create("dr_grpo"), p, np.array(n)).signal
        np.testing.assert_allclose(shrunk, (n - 1) / n * p * (1 - p), rtol=1e-12, atol=1e-16)


def test_signal_variance_of_rloo_has_its_closed_form():
    p, n = np.linspace(0, 1, 11), 8
    q = p * (1 - p)
    found = moments(estimators.create("rloo"), p, np.array(n)).signal_variance
    np.testing.assert_allclose(found, q / n * (1 - q * (4 * n - 6) / (n - 1)), rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("p", "n"), [(0.1, 8), (0.5, 4), (0.85, 6)])
def test_moments_agree_with_rollout_by_rollout_monte_carlo(name, p, n):
    draws, sigma = 20_000, 1.5
    rng = np.random.default_rng([ord(name[0]), len(name), n])
    gradients = sampled_gradients(name, p, n, sigma, draws, rng)
    exact = moments(estimators.create(name), np.array([p]), np.array([n]))
    along, across = gradients[:, 0], gradients[:, 1]
    variance_along = float(exact.signal_variance[0] + sigma**2 * exact.noise[0])
    for sample, expected in (
        (along, float(exact.signal[0])),
        ((along - exact.signal[0]) ** 2, variance_along),
        (across**2, sigma**2 * float(exact.noise[0])),
        ((along - p * (1 - p)) ** 2, float(exact.bias[0] ** 2) + variance_along),
    ):
        standard_error = sample.std() / np.sqrt(draws)
        assert abs(sample.mean() - expected) < 4 * standard_error


@given(
    p=st.lists(st.one_of(st.sampled_from(EDGES), st.floats(0, 1)), min_size=1, max_size=6),
    upper=st.integers(1, 24),
    name=st.sampled_from(NAMES),
)
def test_table_equals_one_by_one(p, upper, name):
    estimator = estimators.create(name)
    p = np.array(p)
    table = moment_table(estimator, p, upper)
    single = moments(estimator, p[:, None], np.arange(upper + 1)[None, :])
    for field in ("signal", "noise", "zero_gradient"):
        np.testing.assert_allclose(getattr(table, field), getattr(single, field), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(table.signal_variance, single.signal_variance, rtol=1e-8, atol=1e-14)
    noise = noise_table(estimator, p, upper)
    np.testing.assert_allclose(noise, table.noise, rtol=1e-13, atol=1e-300)
    equal = noise_table(estimator, np.tile(p, (3, 7)), upper).reshape(21, len(p), upper + 1)
    np.testing.assert_array_equal(equal[1:], np.broadcast_to(equal[0], equal[1:].shape))


@given(
    st.lists(st.one_of(st.sampled_from(EDGES), st.floats(0, 1)), min_size=1, max_size=5), st.integers(0, 40)
)
def test_binomial_rows_are_the_binomial_distribution(p, upper):
    p = np.array(p)
    p[p < 1e-300] = 0.0  # where scipy's own overflows
    for n, pmf in binomial_rows(p, upper):
        np.testing.assert_allclose(pmf.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(pmf, binomial_pmf(p, n), rtol=1e-11, atol=1e-290)
        np.testing.assert_allclose(
            pmf, stats.binom.pmf(np.arange(n + 1), n, p[:, None]), rtol=1e-9, atol=1e-290
        )


@pytest.mark.parametrize("name", NAMES)
def test_too_small_groups_contribute_nothing(name):
    estimator = estimators.create(name)
    small = moments(estimator, np.array([0.4]), np.arange(estimator.minimum))
    assert not small.signal.any()
    assert not small.noise.any()
    assert small.zero_gradient.tolist() == [1.0] * estimator.minimum
    alone = moments(estimator, np.array([0.4]), np.array([estimator.minimum]))
    assert alone.noise[0] > 0


def test_derived_quantities():
    m = moments(estimators.create("dr_grpo"), np.array([0.3, 0.0]), np.array([5, 5]))
    assert m.mse(7.0)[0] == pytest.approx(m.bias[0] ** 2 + m.signal_variance[0] + 7 * m.noise[0])
    assert m.snr(7.0)[0] == pytest.approx(m.signal[0] ** 2 / m.variance(7.0)[0])
    assert m.snr(7.0)[1] == 0  # no signal and no variance


@pytest.mark.parametrize("name", NAMES)
def test_realised_contributions_average_to_the_moments(name):
    """Weighing every k by its probability turns realised groups into the exact moments."""
    estimator, n, p = estimators.create(name), 6, 0.35
    k = np.arange(n + 1)[None, :]
    groups = Groups(k, k, n - k, np.ones(k.shape))
    x, noise = realised(estimator, groups, np.full(k.shape, p))
    pmf = stats.binom.pmf(k, n, p)
    exact = moments(estimator, np.array([p]), np.array([n]))
    assert (pmf * x).sum() == pytest.approx(exact.signal[0], rel=1e-10)
    assert (pmf * noise).sum() == pytest.approx(exact.noise[0], rel=1e-10)


def test_a_given_baseline_replaces_the_centring():
    p = np.array([[0.3, 0.3, 0.3]])
    groups = Groups(
        prompts=np.array([[0, 1, -1]]),
        successes=np.array([[1, 1, 5]]),
        failures=np.array([[0, 3, 5]]),
        weights=np.ones((1, 3)),
        baseline=np.array([[0.25, np.nan, 0.5]]),
    )
    x, noise = realised(estimators.create("rloo"), groups, p)
    # One success with baseline 1/4: A+ = 3/4, although RLOO itself needs two rollouts.
    assert x[0, 0] == pytest.approx(0.75 * 0.7)
    assert noise[0, 0] == pytest.approx(0.75**2)
    # One success in four under RLOO: A+ = 1, A- = -1/3.
    assert x[0, 1] == pytest.approx((0.7 + 3 * 0.3 / 3) / 4)
    assert x[0, 2] == noise[0, 2] == 0  # no prompt, no gradient


def test_shares_by_aggregation():
    prompts = np.array([[0, 1, 2, -1]])
    groups = Groups(
        prompts, np.array([[1, 2, 0, 9]]), np.array([[1, 4, 0, 9]]), np.array([[1.0, 2.0, 1.0, 1.0]])
    )
    np.testing.assert_allclose(prompt_shares("prompt", groups), [[1 / 3, 2 / 3, 1 / 3, 0]])
    np.testing.assert_allclose(prompt_shares("rollout", groups), [[2 / 8, 2 * 6 / 8, 0, 0]])


@pytest.mark.parametrize("spec", ["grpo[ddof=2]", "grpo[eps=-1]", "grpo[eps=nan]", "rloo[ddof=1]", "gpro"])
def test_bad_specs(spec):
    with pytest.raises(InputError, match="estimator"):
        estimators.create(spec)
