"""The variational GP against the exact posterior of a small problem."""

import numpy as np
import pytest
from scipy import integrate, special, stats
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors.features import median_length_scale
from rolloutbench.protocol import Outcomes

pytestmark = pytest.mark.torch


def test_one_prompt_alone_has_the_posterior_that_quadrature_gives():
    predictor = begun(
        "svgp[inducing=1,steps=600,learning_rate=0.05,discount=1,signal_variance=2]", np.zeros((1, 1, 2))
    )
    predictor.update(Outcomes(np.array([[0]]), np.array([[6]]), np.array([[5]])))
    weight = lambda g: stats.binom.pmf(5, 6, special.expit(g)) * stats.norm.pdf(g, 0, np.sqrt(2))  # noqa: E731
    total = integrate.quad(weight, -10, 10)[0]
    mean = integrate.quad(lambda g: g * weight(g), -10, 10)[0] / total
    variance = integrate.quad(lambda g: (g - mean) ** 2 * weight(g), -10, 10)[0] / total
    found = predictor.logits(np.array([[0]]))
    assert found.mean[0, 0] == pytest.approx(mean, abs=0.03)
    assert found.variance[0, 0] == pytest.approx(variance, rel=0.05)


def laplace(x, outcomes, r):
    """Mean and variance of the logits of all prompts of replicate r, by Newton's method on the joint mode."""
    squares = ((x[:, None] - x) ** 2).sum(axis=-1)
    kernel = np.exp(-squares / (2 * median_length_scale(x[None])[0] ** 2)) + 1e-6 * np.eye(len(x))
    b, n, k = outcomes.prompts[r], outcomes.counts[r], outcomes.successes[r]
    mode = np.zeros(len(b))
    for _ in range(50):
        p = special.expit(mode)
        precision = n * p * (1 - p)
        gain = kernel[:, b] @ np.linalg.inv(kernel[np.ix_(b, b)] + np.diag(1 / precision))
        mean = gain @ (mode + (k - n * p) / precision)
        mode = mean[b]
    return mean, np.diag(kernel - gain @ kernel[b])


def test_with_all_prompts_inducing_it_is_near_the_joint_posterior():
    features, success = pool(2, 40, 2)
    rng = np.random.default_rng(17)
    outcomes = visit(rng, success, batches(rng, 2, 40, 25), most=60, least=40)
    predictor = begun("svgp[inducing=40,steps=400,learning_rate=0.03,discount=1]", features)
    predictor.update(outcomes)
    found = predictor.logits(everyone(2, 40))
    for r in range(2):
        mean, variance = laplace(features[r], outcomes, r)
        np.testing.assert_allclose(found.mean[r], mean, atol=0.1)
        np.testing.assert_allclose(found.variance[r], variance, atol=0.01)


def test_a_few_steps_an_update_learn():
    features, success = pool(4, 200, 3, own=0.2)
    rng = np.random.default_rng(18)
    predictor = begun("svgp", features)
    prior = ((0.5 - success) ** 2).mean()
    for _ in range(6):
        predictor.update(visit(rng, success, batches(rng, 4, 200, 50), 8, 8))
    assert ((predictor.predict(everyone(4, 200)).mean - success) ** 2).mean() < 0.4 * prior


def test_threads_are_left_as_they_were():
    import torch

    before = torch.get_num_threads()
    begun("svgp", pool(1, 10)[0]).predict(everyone(1, 10))
    assert torch.get_num_threads() == before
