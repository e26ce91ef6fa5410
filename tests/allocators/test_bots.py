"""BOTS (arXiv 2510.26374): posteriors of the whole pool against a scalar twin, and the choice."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError


@pytest.mark.parametrize("forgetting", [0.1, 0.5])
def test_every_posterior_forgets_in_every_step(forgetting):
    place = Coins(np.random.default_rng(1).uniform(size=(2, 20)), 4, 32)
    driven = begin(place, allocators.create(f"bots[forgetting={forgetting}]"))
    alpha, beta = np.ones((2, 2, 20))
    for _ in range(20):
        seen = run_step(place, driven).outcomes
        for row in range(2):
            for q in range(20):
                k, n = 0, 0
                for prompt, count, successes in zip(
                    seen.prompts[row], seen.counts[row], seen.successes[row], strict=True
                ):
                    if prompt == q:
                        k, n = successes, count
                alpha[row, q] = (1 - forgetting) * alpha[row, q] + forgetting + k
                beta[row, q] = (1 - forgetting) * beta[row, q] + forgetting + n - k
        np.testing.assert_allclose(driven._alpha, alpha)
        np.testing.assert_allclose(driven._beta, beta)


def test_the_nearest_samples_are_chosen():
    """With posteriors of nearly no variance the choice is that by their means."""
    p = np.linspace(0.01, 0.99, 50)[None]
    place = Coins(p, 5, 40)
    driven = begin(place, allocators.create("bots[target=0.3]"))
    driven._alpha[:], driven._beta[:] = 1e9 * p, 1e9 * (1 - p)
    chosen = run_step(place, driven).groups.prompts[0]
    assert sorted(chosen.tolist()) == sorted(np.argsort(np.abs(p[0] - 0.3))[:5].tolist())


def test_a_softmax_draws_by_distance():
    """Chances of the first drawn are proportional to exp(-distance / tau), within 4 standard errors."""
    p = np.tile([0.5, 0.6, 0.8], (4000, 1))
    place = Coins(p, 1, 8)
    driven = begin(place, allocators.create("bots[tau=0.2]"))
    driven._alpha[:], driven._beta[:] = 1e9 * p, 1e9 * (1 - p)
    chosen = run_step(place, driven).groups.prompts[:, 0]
    weights = np.exp(-np.abs(p[0] - 0.5) / 0.2)
    for q, chance in enumerate(weights / weights.sum()):
        assert (chosen == q).mean() == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 4000))


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="forgetting"):
        allocators.create("bots[forgetting=-1]")
