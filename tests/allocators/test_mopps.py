"""MoPPS (arXiv 2507.04632): posterior and choice against a scalar twin."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import PromptStream


def sample(rng, alpha, beta):
    """Of Beta(alpha, beta), whose parameters are had from its mean and variance."""
    mean, total = alpha / (alpha + beta), alpha + beta
    found = mean * (1 - mean) / (alpha * beta / (total**2 * (total + 1))) - 1
    assert found == pytest.approx(total)
    return rng.beta(mean * found, (1 - mean) * found)


@pytest.mark.parametrize("discount", [1.0, 0.5])
def test_posterior_and_choice(discount):
    """alpha <- d alpha + (1-d) + k; samples drawn one by one; the B nearest to 1/2 are rolled out."""
    place = Coins(np.random.default_rng(1).uniform(size=(1, 40)), 4, 32)
    driven = begin(place, allocators.create(f"mopps[candidates=8,predictor=beta[discount={discount}]]"))
    stream = PromptStream(40, 1, np.random.SeedSequence(0))
    rng = np.random.default_rng(0)
    alpha, beta = np.ones(40), np.ones(40)
    for _ in range(30):
        seen = run_step(place, driven).outcomes
        candidates = stream.draw(32)[0]
        gammas = [sample(rng, alpha[q], beta[q]) for q in candidates]
        order = sorted(range(32), key=lambda i: abs(gammas[i] - 0.5))
        assert seen.prompts[0].tolist() == candidates[order[:4]].tolist()
        assert (seen.counts == 8).all()
        for q, n, k in zip(seen.prompts[0], seen.counts[0], seen.successes[0], strict=True):
            alpha[q] = discount * alpha[q] + (1 - discount) + k
            beta[q] = discount * beta[q] + (1 - discount) + n - k
    assert place.ledger.generated[0] == 30 * 32


def test_it_finds_the_prompts_of_middling_difficulty():
    p = np.tile(np.repeat([0.0, 0.5, 1.0], 40), (20, 1))
    place = Coins(p, 10, 80)
    driven = begin(place, allocators.create("mopps"))
    for _ in range(30):
        run_step(place, driven)
    middling = np.mean([(place.p[0, g.prompts] == 0.5).mean() for g in place.updates[-5:]])
    assert middling > 0.85


def test_a_predictor_without_variance_is_taken_at_its_word():
    p = np.array([[0.1, 0.45, 0.52, 0.9, 0.3, 0.8]])
    place = Coins(p, 2, 16)
    seen = run_step(place, begin(place, allocators.create("mopps[predictor=oracle]"))).outcomes
    assert seen.prompts.tolist() == [[2, 1]]
