"""The arcsine filter: visits against a scalar twin, and the belief about p by sampling."""

import math

import numpy as np
import pytest
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors import predictors
from rolloutbench.protocol import InputError, Outcomes


@pytest.mark.parametrize("drift", [0.0, 0.02])
def test_it_is_the_scalar_filter(drift):
    features, success = pool(2, 30)
    rng = np.random.default_rng(0)
    predictor = begun(f"arcsine[drift={drift}]", features)
    psi, variance = np.full((2, 30), math.pi / 4), np.full((2, 30), math.pi**2 / 16 - 0.5)
    for _ in range(12):
        seen = visit(rng, np.round(success), batches(rng, 2, 30, 12)) if rng.random() < 0.3 else None
        seen = seen or visit(rng, success, batches(rng, 2, 30, 12))
        predictor.update(seen)
        for row in range(2):
            for q, n, k in zip(seen.prompts[row], seen.counts[row], seen.successes[row], strict=True):
                if n == 0:
                    continue
                if k in (0, n):
                    observed, noise = (0.0 if k == 0 else math.pi / 2), 1 / (2 * n)
                else:
                    observed, noise = math.asin(math.sqrt((k + 3 / 8) / (n + 3 / 4))), 1 / (4 * n + 2)
                precision = 1 / variance[row, q] + 1 / noise
                psi[row, q] = (psi[row, q] / variance[row, q] + observed / noise) / precision
                variance[row, q] = 1 / precision + drift
    np.testing.assert_allclose(predictor._mean, psi)
    np.testing.assert_allclose(predictor._variance, variance)


def test_the_belief_is_that_of_sin_squared_of_a_gaussian():
    predictor = begun("arcsine", np.zeros((1, 4, 1)))
    predictor._mean[0], predictor._variance[0] = [0.1, 0.8, 1.5, 0.8], [0.02, 0.1, 0.05, 1e-9]
    belief = predictor.predict(everyone(1, 4))
    rng = np.random.default_rng(0)
    for q in range(4):
        p = (
            np.sin(predictor._mean[0, q] + np.sqrt(predictor._variance[0, q]) * rng.standard_normal(400000))
            ** 2
        )
        assert belief.mean[0, q] == pytest.approx(p.mean(), abs=4 * p.std() / np.sqrt(len(p)))
        assert belief.variance[0, q] == pytest.approx(p.var(), rel=0.02)


def test_before_a_visit_it_is_uniform_in_mean():
    belief = begun("arcsine", np.zeros((1, 2, 1))).predict(everyone(1, 2))
    assert belief.mean == pytest.approx(0.5)


def test_many_rollouts_bring_it_to_the_rate():
    predictor = begun("arcsine[drift=0]", np.zeros((1, 3, 1)))
    k = np.array([[100, 2500, 9990]])
    predictor.update(Outcomes(everyone(1, 3), np.full((1, 3), 10000), k))
    assert predictor.predict(everyone(1, 3)).mean[0] == pytest.approx(k[0] / 10000, abs=1e-3)


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="drift"):
        predictors.create("arcsine[drift=-1]")
