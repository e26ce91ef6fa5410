"""The GP against gpytorch for one batch, and against a slow twin for several."""

import numpy as np
import pytest
from scipy import special
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors import gp as module
from rolloutbench.predictors.features import median_length_scale
from rolloutbench.predictors.logit import Logits, binomial_observation
from rolloutbench.predictors.svgp import _gpytorch
from rolloutbench.protocol import Outcomes


def exact_gp(x, observed, values, noise, scale, mean, variance):
    """gpytorch's posterior mean and variance at all x (Q, d), in double precision."""
    import torch

    gpytorch = _gpytorch()

    class Exact(gpytorch.models.ExactGP):
        def __init__(self, *data):
            super().__init__(*data)
            self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, points):
            constant = torch.full(points.shape[:-1], mean, dtype=points.dtype)
            return gpytorch.distributions.MultivariateNormal(constant, self.kernel(points))

    x, values, noise = (torch.as_tensor(a) for a in (x, values, noise))
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise)
    model = Exact(x[observed], values, likelihood).double()
    model.kernel.outputscale, model.kernel.base_kernel.lengthscale = variance, scale
    model.eval()
    likelihood.eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        posterior = model(x)
        return posterior.mean.numpy(), posterior.variance.numpy()


@pytest.mark.parametrize(
    "spec", ["gp[drift=0]", "gp[drift=0,signal_variance=2.5,prior_mean=-1,length_scale=2]"]
)
def test_one_batch_is_gpytorchs_exact_posterior(spec):
    features, success = pool(2, 60, 4)
    rng = np.random.default_rng(3)
    predictor = begun(spec, features)
    outcomes = visit(rng, success, batches(rng, 2, 60, 25), least=1)
    prior = predictor.logits(outcomes.prompts)
    value, precision = binomial_observation(prior, outcomes.successes, outcomes.counts)
    predictor.update(outcomes)
    found = predictor.logits(everyone(2, 60))
    for r in range(2):
        scale = predictor.length_scale or median_length_scale(features)[r]
        mean, variance = exact_gp(
            features[r],
            outcomes.prompts[r],
            value[r],
            1 / precision[r] + predictor.jitter * predictor.signal_variance,
            scale,
            predictor.prior_mean,
            predictor.signal_variance,
        )
        np.testing.assert_allclose(found.mean[r], mean, atol=1e-6)
        np.testing.assert_allclose(found.variance[r], variance, atol=1e-6)


class Slow:
    """One replicate, prompt by prompt and matrix by matrix, as the docstring of gp.py says."""

    def __init__(self, x, predictor):
        self.x, self.by = x, predictor
        scale = predictor.length_scale or median_length_scale(x[None])[0]
        self.kernel = np.array([[np.exp(-((a - b) ** 2).sum() / (2 * scale**2)) for b in x] for a in x])
        self.mean = np.full(len(x), predictor.prior_mean)
        self.variance = np.full(len(x), predictor.signal_variance)

    def update(self, prompts, counts, successes):
        b = [q for q, n in zip(prompts, counts, strict=True) if n > 0]
        if not b:
            return
        n, k = counts[counts > 0], successes[counts > 0]
        if self.by.noise is None:
            belief = Logits(self.mean[b][None], self.variance[b][None])
            value, precision = binomial_observation(belief, k[None], n[None])
            value, noise = value[0], 1 / precision[0]
        else:
            value = special.logit(np.clip(k / n, self.by.eps, 1 - self.by.eps))
            noise = np.full(len(b), self.by.noise)
        std = np.sqrt(self.variance)
        prior = std[:, None] * self.kernel * std
        noise = noise + self.by.jitter * self.variance[b]
        gain = prior[:, b] @ np.linalg.inv(prior[np.ix_(b, b)] + np.diag(noise))
        self.mean = self.mean + gain @ (value - self.mean[b])
        if self.by.noise == 0:
            self.mean[b] = value
        posterior = np.diag(prior - gain @ prior[b])
        self.variance = np.minimum(posterior + self.by.drift, self.by.signal_variance)


SPECS = [
    "gp",
    "gp[drift=0.2,prior_mean=-2,signal_variance=3]",
    "gp[drift=0,noise=0.5]",
    "gp[noise=0,drift=1,belief=plug_in]",
    "gp[noise=0,drift=1,belief=plug_in,length_scale=0.5,prior_mean=-5,jitter=1e-4]",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("block", [module.BLOCK, 1])
def test_several_steps_are_the_slow_twins(spec, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)  # 1: the pool in parts of 64
    features, success = pool(3, 150, 3)
    features[:, 1] = features[:, 0]
    rng = np.random.default_rng(4)
    fast = begun(spec, features)
    slow = [Slow(x, fast) for x in features]
    for step in range(5):
        prompts = batches(rng, 3, 150, 40)
        prompts[rng.random(prompts.shape) < 0.1] = -1
        outcomes = visit(rng, success, prompts)
        if step == 2:
            outcomes.counts[1] = outcomes.successes[1] = 0
        fast.update(outcomes)
        for r, one in enumerate(slow):
            one.update(outcomes.prompts[r], outcomes.counts[r], outcomes.successes[r])
        found = fast.logits(everyone(3, 150))
        np.testing.assert_allclose(found.mean, [one.mean for one in slow], atol=1e-6)
        np.testing.assert_allclose(found.variance, [one.variance for one in slow], atol=1e-6)


def test_as_in_the_paper_the_batch_is_interpolated_and_the_mean_plugged_in():
    """Algorithm 1: m_B = logit of the clipped rate, whatever the number of rollouts; at first p = 0.5."""
    features, _ = pool(1, 20, 2)
    predictor = begun("gp[noise=0,drift=1,belief=plug_in]", features)
    assert (predictor.predict(everyone(1, 20)).mean == 0.5).all()
    outcomes = Outcomes(np.array([[3, 7, 9]]), np.array([[4, 32, 8]]), np.array([[1, 8, 0]]))
    for _ in range(2):
        predictor.update(outcomes)
        assert predictor.predict(outcomes.prompts).mean[0].tolist() == pytest.approx([0.25, 0.25, 1e-6])
    assert (predictor.logits(everyone(1, 20)).variance == 1).all()


def test_single_precision_features_give_the_same_to_five_digits():
    features, success = pool(2, 300, 8)
    rng = np.random.default_rng(5)
    double, single = begun("gp", features), begun("gp", features.astype(np.float32))
    for _ in range(6):
        outcomes = visit(rng, success, batches(rng, 2, 300, 64))
        double.update(outcomes)
        single.update(outcomes)
    for a, b in zip(double.logits(everyone(2, 300)), single.logits(everyone(2, 300)), strict=True):
        assert b.dtype == np.float64
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_rollouts_are_trusted_by_their_number_and_drift_forgets():
    features, _ = pool(1, 30, 2)
    few, many = begun("gp", features), begun("gp", features)
    for predictor, n in ((few, 4), (many, 32)):
        predictor.update(Outcomes(np.array([[5]]), np.array([[n]]), np.array([[n]])))
    assert 0.5 < few.predict(np.array([[5]])).mean[0, 0] < many.predict(np.array([[5]])).mean[0, 0]
    before = many.logits(everyone(1, 30)).variance
    assert before[0, 5] < few.logits(everyone(1, 30)).variance[0, 5] < 1
    far = int(np.argmax(((features[0] - features[0, 5]) ** 2).sum(axis=-1)))
    many.update(Outcomes(np.array([[far]]), np.array([[4]]), np.array([[2]])))
    after = many.logits(everyone(1, 30)).variance
    assert before[0, 5] < after[0, 5] <= before[0, 5] + 0.01 + 1e-12
    assert (after <= 1).all()
