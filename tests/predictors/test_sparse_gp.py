"""The sparse GP against batch regression in its basis, and against the full GP."""

import numpy as np
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors.logit import binomial_observation
from rolloutbench.predictors.sparse_gp import _cosines_and_sines


def test_without_forgetting_it_is_batch_regression():
    """One regression on all observations of all steps, each linearised when it was made."""
    features, success = pool(2, 80, 3)
    rng = np.random.default_rng(6)
    spec = "sparse_gp[frequencies=10,discount=1,residual=0.4,signal_variance=2,prior_mean=0.5]"
    predictor = begun(spec, features)
    seen = []
    for _ in range(4):
        outcomes = visit(rng, success, batches(rng, 2, 80, 20))
        observation = binomial_observation(
            predictor.logits(outcomes.prompts), outcomes.successes, outcomes.counts
        )
        seen.append((outcomes, *observation))
        predictor.update(outcomes)
    frequencies = predictor.state_dict()["frequencies"]
    for r in range(2):
        angles = features[r] @ frequencies[r]
        basis = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(10)
        rows, targets, noise = [], [], []
        for outcomes, value, precision in seen:
            there = outcomes.counts[r] > 0
            rows.append(basis[outcomes.prompts[r, there]])
            targets.append(value[r, there] - 0.5)
            noise.append(1 / precision[r, there] + 0.4)
        x, y, n = np.concatenate(rows), np.concatenate(targets), np.concatenate(noise)
        covariance = np.linalg.inv(np.eye(20) / 2 + x.T @ (x / n[:, None]))
        mean = 0.5 + basis @ covariance @ x.T @ (y / n)
        found = predictor.logits(everyone(2, 80))
        np.testing.assert_allclose(found.mean[r], mean, atol=1e-8)
        np.testing.assert_allclose(found.variance[r], np.diag(basis @ covariance @ basis.T) + 0.4, atol=1e-8)


def test_cosines_and_sines_are_numpys():
    angles = np.concatenate([np.linspace(-50, 50, 1001), np.pi * np.arange(-4, 5) / 2, [1e-300, 1e9]])
    found = _cosines_and_sines(angles.copy())
    np.testing.assert_allclose(found, np.concatenate([np.cos(angles), np.sin(angles)]), rtol=0, atol=1e-15)


def test_many_frequencies_come_near_the_full_gp():
    features, success = pool(2, 100, 3)
    rng = np.random.default_rng(7)
    outcomes = visit(rng, success, batches(rng, 2, 100, 40), least=1)
    full = begun("gp[drift=0]", features)
    full.update(outcomes)
    exact = full.logits(everyone(2, 100))
    errors = []
    for count in (20, 200, 800):
        sparse = begun(f"sparse_gp[frequencies={count},discount=1,residual=0]", features)
        sparse.update(outcomes)
        found = sparse.logits(everyone(2, 100))
        errors.append((np.abs(found.mean - exact.mean).max(), np.abs(found.variance - exact.variance).max()))
    assert max(errors[2]) < 0.15
    assert (np.array(errors[2]) < np.array(errors[0]) / 3).all()


def test_forgetting_leaves_the_mean_and_returns_to_the_prior_variance():
    features, success = pool(1, 50, 2)
    rng = np.random.default_rng(8)
    predictor = begun("sparse_gp[discount=0.5]", features)
    predictor.update(visit(rng, success, everyone(1, 50), least=4))
    certain = predictor.logits(everyone(1, 50)).variance
    # One rollout of one prompt a step is hardly more than forgetting.
    for _ in range(30):
        predictor.update(visit(rng, success, np.array([[0]]), most=1, least=1))
    forgotten = predictor.logits(everyone(1, 50)).variance
    assert (forgotten[:, 1:] > certain[:, 1:]).all()
    assert forgotten.max() <= 2 + 1e-9  # prior 1 and residual 1


def test_nothing_has_the_size_of_the_pool():
    features, success = pool(1, 10_000, 2)
    predictor = begun("sparse_gp[frequencies=8]", features)
    predictor.update(visit(np.random.default_rng(0), success, np.arange(30)[None]))
    held = [value for value in vars(predictor).values() if isinstance(value, np.ndarray)]
    assert sum(array.size for array in held if array is not features) < 2000
    assert any(array is features for array in held)
