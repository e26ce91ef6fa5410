import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rolloutbench.protocol import InputError
from simulators.pools import Measured, difficulties, draw_pool
from simulators.scenarios import scenarios
from simulators.traced import recorded


def pool(difficulty="beta", seed=0, replicates=4, size=500, dimension=16, skills=5, predictability=0.5):
    rng = np.random.default_rng(seed)
    return draw_pool(
        difficulties.create(difficulty), rng, replicates, size, dimension, skills, predictability
    )


@pytest.mark.parametrize(
    ("spec", "distribution"),
    [
        ("beta[alpha=0.4,beta=0.6]", stats.beta(0.4, 0.6)),
        ("beta[alpha=4,beta=4]", stats.beta(4, 4)),
        ("dead[unsolvable=0,solved=0]", stats.uniform()),
    ],
)
def test_difficulties_have_their_distribution(spec, distribution):
    """Also after prompts were ranked by a latent ease: the marginal distribution stays exact."""
    success = pool(spec, replicates=8).success.ravel()
    assert stats.kstest(success, distribution.cdf).pvalue > 1e-3


def test_logit_normal():
    success = pool("logit_normal[mean=-0.5,std=2]").success
    assert stats.kstest(np.log(success / (1 - success)).ravel(), stats.norm(-0.5, 2).cdf).pvalue > 1e-3


def test_dead_prompts():
    success = pool("dead", replicates=16).success
    assert (success == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (success == 1).mean() == pytest.approx(0.3, abs=0.02)
    with pytest.raises(InputError, match="together they are at most 1"):
        difficulties.create("dead[unsolvable=0.7,solved=0.5]")


def test_difficulties_of_the_recorded_run():
    """Of one epoch, freed of the error of eight rollouts: the mean stays, the spread shrinks."""
    for epoch in (0, 20):
        success = pool(f"traced[epoch={epoch}]", replicates=32, size=1209).success
        rates = recorded()[:, epoch] / 8
        assert success.mean() == pytest.approx(rates.mean(), abs=0.01)
        noise = (rates * (1 - rates)).mean() / 7
        assert success.var() == pytest.approx(rates.var() - noise, abs=0.01)
        assert success.min() > 0
    with pytest.raises(InputError, match="epoch"):
        difficulties.create("traced[epoch=44]")


def test_features_are_unit_vectors_around_skills():
    made = pool()
    np.testing.assert_allclose(np.linalg.norm(made.features, axis=2), 1)
    similarity = made.features[0] @ made.features[0].T
    off_diagonal = similarity[~np.eye(500, dtype=bool)]
    assert np.quantile(off_diagonal, 0.95) > 0.4  # same skill
    assert np.abs(np.median(off_diagonal)) < 0.25  # different skills


@pytest.mark.parametrize(
    ("predictability", "low", "high"), [(0.0, 0.0, 0.12), (0.5, 0.3, 0.6), (1.0, 0.9, 1.0)]
)
def test_predictability_is_how_much_features_say_of_difficulty(predictability, low, high):
    made = pool(predictability=predictability, size=2000)
    ranks = np.argsort(np.argsort(made.success, axis=1), axis=1) / 2000
    explained = []
    for r in range(4):
        x = np.column_stack([made.features[r], np.ones(2000)])
        residual = ranks[r] - x @ np.linalg.lstsq(x, ranks[r], rcond=None)[0]
        explained.append(1 - residual.var() / ranks[r].var())
    assert low <= np.mean(explained) <= high


def test_measured_rates_are_resampled():
    measured = Measured(np.array([0.0, 0.25, 1.0]))
    drawn = measured.sample(np.random.default_rng(0), (3, 1000))
    assert set(np.unique(drawn)) == {0.0, 0.25, 1.0}
    assert drawn.mean() == pytest.approx(1.25 / 3, abs=0.03)


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_sampling_error_of_measured_rates_is_taken_out(seed):
    """Rates of 8 rollouts spread more than the truth; the fitted prior finds the truth's spread again."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(2.0, 5.0, size=4000)
    rates = rng.binomial(8, truth) / 8
    drawn = Measured(rates, np.full(4000, 8.0)).sample(rng, (4000,))
    assert rates.std() > 1.25 * truth.std()
    assert drawn.std() == pytest.approx(truth.std(), rel=0.08)
    assert drawn.mean() == pytest.approx(truth.mean(), abs=0.02)
    assert (drawn > 0).all()  # 0 of 8 is not impossible


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.6), (0.2, 3.0), (8.0, 8.0)])
def test_the_prior_of_measured_rates_is_at_least_as_likely_as_the_truth(alpha, beta):
    """Also where the counts are nearly binomial, and the likelihood is nearly flat far from its top."""
    rng = np.random.default_rng(0)
    trials = np.full(2000, 4.0)
    successes = rng.binomial(4, rng.beta(alpha, beta, size=2000))

    def likelihood(*parameters):
        return stats.betabinom.logpmf(successes, trials, *parameters).sum()

    found = Measured(successes / trials, trials).prior
    assert likelihood(*found) >= likelihood(alpha, beta)
    for nudge in ((1.1, 1.0), (1 / 1.1, 1.0), (1.0, 1.1), (1.0, 1 / 1.1), (1.1, 1.1), (1 / 1.1, 1 / 1.1)):
        assert likelihood(*found) >= likelihood(*np.multiply(found, nudge))


def test_pools_repeat_each_replicate_in_a_row():
    made = pool(replicates=2, size=3)
    assert made.repeated(2).success[[0, 2]].tolist() == made.success.tolist()
    assert made.repeated(2).success[1].tolist() == made.success[0].tolist()


def test_a_pool_depends_on_its_generator_only():
    scenario = scenarios.create("snapshot-u-shaped-v1")
    first, again = (scenario.pool(np.random.default_rng(3), 2, 10) for _ in range(2))
    np.testing.assert_array_equal(first.success, again.success)
    np.testing.assert_array_equal(first.features, again.features)
