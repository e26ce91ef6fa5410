"""Nearest neighbours against a loop over prompts, and what features are worth to it."""

import numpy as np
import pytest
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors import neighbours as module
from rolloutbench.predictors import predictors
from rolloutbench.protocol import InputError


@pytest.mark.parametrize("spec", ["neighbours", "neighbours[k=3,memory=20,strength=2,discount=0.5]"])
@pytest.mark.parametrize("block", [module.BLOCK, 1])
def test_it_is_the_slow_twin(spec, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)  # 1: prompt by prompt
    features, success = pool(2, 40)
    rng = np.random.default_rng(0)
    predictor = begun(spec, features)
    made = predictors.create(spec)
    counts, successes, memory = np.zeros((2, 40)), np.zeros((2, 40)), [[], []]
    for _ in range(10):
        seen = visit(rng, success, batches(rng, 2, 40, 9))
        predictor.update(seen)
        for row in range(2):
            fresh = []
            for q, n, k in zip(seen.prompts[row], seen.counts[row], seen.successes[row], strict=True):
                if n:
                    counts[row, q] = made.discount * counts[row, q] + n
                    successes[row, q] = made.discount * successes[row, q] + k
                    fresh.append(int(q))
            memory[row] = (fresh + [q for q in memory[row] if q not in fresh])[: made.memory]
        belief = predictor.predict(everyone(2, 40))
        for row in range(2):
            for q in range(40):
                others = [other for other in memory[row] if other != q]
                others.sort(key=lambda o, row=row, q=q: ((features[row, o] - features[row, q]) ** 2).sum())
                near = others[: made.k]
                prior = (successes[row, near].sum() + 1) / (counts[row, near].sum() + 2)
                total = made.strength + counts[row, q]
                expected = (made.strength * prior + successes[row, q]) / total
                assert belief.mean[row, q] == pytest.approx(expected)
                assert belief.variance[row, q] == pytest.approx(expected * (1 - expected) / (total + 1))


def test_unseen_prompts_are_predicted_from_their_likes():
    """Rank correlation with the truth of prompts that were never visited; 0 without features."""
    features, success = pool(1, 600, own=0.2)
    rng = np.random.default_rng(0)
    predictor = begun("neighbours", features)
    for first in range(0, 400, 50):
        predictor.update(visit(rng, success, np.arange(first, first + 50)[None], least=8))
    found = predictor.predict(np.arange(400, 600)[None]).mean[0]
    ranks = [np.argsort(np.argsort(values)) for values in (found, success[0, 400:])]
    assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_bad_parameters_and_missing_features_are_refused():
    with pytest.raises(InputError, match="k="):
        predictors.create("neighbours[k=0]")
