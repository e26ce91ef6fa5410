import numpy as np
import pytest

from rolloutbench.estimators import RLOO
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Budget, InputError, Outcomes, Setting

POOL = np.array([[0.1, 0.9, 0.5, 0.0], [0.3, 1.0, 0.2, 0.7]])


def setting(truth=True):
    return Setting(
        Budget(2, 8),
        RLOO(),
        "prompt",
        2,
        4,
        np.random.default_rng(0),
        features=np.random.default_rng(3).standard_normal((2, 4, 3)),
        success_probability=(lambda prompts: POOL[np.arange(len(prompts))[:, None], prompts])
        if truth
        else None,
    )


def made(spec, truth=True):
    predictor = predictors.create(spec)
    predictor.begin(setting(truth))
    return predictor


def outcomes(prompts, counts, successes):
    return Outcomes(*(np.array(a) for a in (prompts, counts, successes)))


ALL = np.tile(np.arange(4), (2, 1))


def test_oracle_knows_and_real_runs_have_none():
    belief = made("oracle").predict(np.array([[1, 3], [0, 1]]))
    assert belief.mean.tolist() == [[0.9, 0.0], [0.3, 1.0]]
    assert not belief.variance.any()
    for spec in ("oracle", "noisy_oracle"):
        with pytest.raises(InputError, match="success probabilities are unknown here"):
            made(spec, truth=False)


def test_noisy_oracle_errs_as_stated():
    predictor = made("noisy_oracle[std=0.05]")
    errors = np.array([predictor.predict(np.full((2, 1), 2)).mean for _ in range(2000)])[:, 0, 0] - 0.5
    assert abs(errors.mean()) < 4 * 0.05 / np.sqrt(2000)
    assert errors.std() == pytest.approx(0.05, rel=0.1)
    assert (made("noisy_oracle[std=5]").predict(ALL).mean <= 1).all()
    assert made("noisy_oracle[std=0]").predict(ALL).mean.tolist() == POOL.tolist()


def test_uniform_knows_nothing():
    predictor = made("uniform")
    predictor.update(outcomes(ALL, ALL + 1, ALL))
    belief = predictor.predict(ALL)
    assert (belief.mean == 0.5).all()
    assert np.allclose(belief.variance, 1 / 12)


def test_beta_is_the_conjugate_posterior():
    predictor = made("beta[prior_successes=2,prior_failures=3]")
    predictor.update(outcomes([[0, 2], [3, -1]], [[4, 0], [6, 0]], [[1, 0], [6, 0]]))
    belief = predictor.predict(ALL)
    assert belief.mean[0].tolist() == pytest.approx([3 / 9, 0.4, 0.4, 0.4])
    assert belief.mean[1, 3] == pytest.approx(8 / 11)
    assert belief.variance[0, 0] == pytest.approx(3 * 6 / (81 * 10))
    assert belief.variance[0, 2] == pytest.approx(6 / (25 * 6))  # no rollouts: still the prior


def test_beta_forgets_towards_its_prior():
    predictor = made("beta[discount=0.5,prior_successes=2,prior_failures=4]")
    for _ in range(2):
        predictor.update(outcomes([[0], [0]], [[8], [8]], [[8], [0]]))
    # All succeed: alpha 2 -> 1 + 1 + 8 = 10 -> 5 + 1 + 8 = 14, beta stays 4.
    # All fail: beta 4 -> 2 + 2 + 8 = 12 -> 6 + 2 + 8 = 16, alpha stays 2.
    assert predictor.predict(np.array([[0], [0]])).mean[:, 0].tolist() == pytest.approx([14 / 18, 2 / 18])


def test_moving_average_and_last_epoch():
    average, last = made("moving_average[decay=0.75,unseen=0.2]"), made("last_epoch")
    for n, k in ((4, 4), (8, 2)):
        for predictor in (average, last):
            predictor.update(outcomes([[1], [-1]], [[n], [0]], [[k], [0]]))
    assert average.predict(ALL).mean[0].tolist() == pytest.approx([0.2, 0.75 * 1 + 0.25 * 0.25, 0.2, 0.2])
    assert last.predict(ALL).mean[0].tolist() == pytest.approx([0.5, 0.25, 0.5, 0.5])
    assert last.predict(ALL).variance[0, 1] == pytest.approx(0.25 * 0.75 / 8)
    m = 0.8125
    expected = m * (1 - m) * (0.75**2 / 4 + 0.25**2 / 8)
    assert average.predict(ALL).variance[0, 1] == pytest.approx(expected)
    with pytest.raises(InputError, match="no parameter 'decay'"):
        predictors.create("last_epoch[decay=0.3]")


@pytest.mark.parametrize("spec", predictors.names())
def test_beliefs_are_beliefs_and_state_travels(spec):
    rng = np.random.default_rng(1)
    predictor, twin = made(spec), made(spec)
    for _ in range(3):
        counts = rng.integers(0, 5, size=ALL.shape)
        predictor.update(Outcomes(ALL, counts, rng.binomial(counts, POOL)))
    twin.load_state_dict(predictor.state_dict())
    counts = np.full(ALL.shape, 3)
    for one in (predictor, twin):
        one.setting.rng.bit_generator.state = np.random.default_rng(9).bit_generator.state
        one.update(Outcomes(ALL, counts, counts - 1))
    belief, twins = predictor.predict(ALL), twin.predict(ALL)
    np.testing.assert_array_equal(belief.mean, twins.mean)
    np.testing.assert_array_equal(belief.variance, twins.variance)
    assert ((belief.mean >= 0) & (belief.mean <= 1)).all()
    assert (belief.variance >= 0).all()
    predictor.begin(setting())  # afresh
    if spec not in ("oracle", "noisy_oracle"):
        np.testing.assert_array_equal(predictor.predict(ALL).mean, made(spec).predict(ALL).mean)


@pytest.mark.parametrize("spec", ["beta[discount=0.9]", "moving_average", "last_epoch"])
def test_learning_is_the_same_one_replicate_at_a_time(spec):
    """The vectorised update against a loop over single prompts."""
    rng = np.random.default_rng(2)
    fast, slow = made(spec), made(spec)
    for _ in range(4):
        counts = rng.integers(0, 5, size=ALL.shape)
        successes = rng.binomial(counts, POOL)
        fast.update(Outcomes(ALL, counts, successes))
        for r in range(2):
            for b in range(4):
                one = np.full((2, 1), -1)
                one[r] = b
                n, k = (np.where(one >= 0, a[r, b], 0) for a in (counts, successes))
                slow.update(Outcomes(one, n, k))
    np.testing.assert_allclose(fast.predict(ALL).mean, slow.predict(ALL).mean)
