"""The hidden Markov chain: one prompt after another by hand, and what it learns of a policy that moves."""

import numpy as np
import pytest
from scipy import stats
from synthetic import batches, begun, pool, visit

from rolloutbench.predictors import predictors
from rolloutbench.protocol import InputError, Outcomes


def test_it_is_the_forward_filter_of_each_prompt():
    """Loops over prompts and levels, with the chain as it was before each step."""
    levels, weight, forgetting = 5, 2.0, 0.9
    features, success = pool(2, 12)
    rng = np.random.default_rng(0)
    predictor = begun(f"markov[levels={levels},weight={weight},forgetting={forgetting}]", features)
    p = np.sin(np.pi / 2 * (np.arange(levels) + 0.5) / levels) ** 2
    moves = np.array([[np.exp(-((i - j) ** 2) / 2) for j in range(levels)] for i in range(levels)])
    moves = [weight * moves / moves.sum(axis=1, keepdims=True) for _ in range(2)]
    starts, known = [np.full(levels, weight / levels) for _ in range(2)], [{}, {}]
    for _ in range(9):
        seen = visit(rng, success, batches(rng, 2, 12, 5))
        predictor.update(seen)
        for row in range(2):
            chain, begin = moves[row] / moves[row].sum(axis=1, keepdims=True), starts[row] / starts[row].sum()
            moved, started, any_seen = np.zeros((levels, levels)), np.zeros(levels), False
            for q, n, k in zip(seen.prompts[row], seen.counts[row], seen.successes[row], strict=True):
                if n == 0:
                    continue
                any_seen = True
                likelihood = stats.binom.pmf(k, n, p)
                if q in known[row]:
                    joint = known[row][q][:, None] * chain * likelihood
                    moved += joint / joint.sum()
                    known[row][q] = joint.sum(axis=0) / joint.sum()
                else:
                    known[row][q] = begin * likelihood / (begin * likelihood).sum()
                    started += known[row][q]
            keep = forgetting if any_seen else 1.0
            moves[row], starts[row] = keep * moves[row] + moved, keep * starts[row] + started
    for row in range(2):
        np.testing.assert_allclose(predictor._moves[row], moves[row], rtol=1e-5)
        np.testing.assert_allclose(predictor._starts[row], starts[row], rtol=1e-5)
        belief = predictor.predict(np.tile(np.arange(12), (2, 1)))
        chain, begin = moves[row] / moves[row].sum(axis=1, keepdims=True), starts[row] / starts[row].sum()
        for q in range(12):
            ahead = known[row][q] @ chain if q in known[row] else begin
            assert belief.mean[row, q] == pytest.approx(ahead @ p, rel=1e-5)
            assert belief.variance[row, q] == pytest.approx(ahead @ p**2 - (ahead @ p) ** 2, abs=1e-6)


def rising(predictor, rate, epochs=25, prompts=200):
    """Expected error of the last epochs on prompts whose logits rise by `rate` a visit."""
    rng = np.random.default_rng(3)
    made = begun(predictor, np.zeros((1, prompts, 1)))
    logit, errors = rng.normal(-3, 1, prompts), []
    for epoch in range(epochs):
        p = 1 / (1 + np.exp(-logit))
        for part in np.array_split(rng.permutation(prompts), 10):
            counts = np.full((1, len(part)), 8)
            if epoch > epochs // 2:
                errors.append(((made.predict(part[None]).mean[0] - p[part]) ** 2).mean())
            made.update(Outcomes(part[None], counts, rng.binomial(counts, p[part])))
        logit = logit + rate
    return np.mean(errors)


def test_it_learns_how_fast_prompts_move():
    """One set of constants for a policy that stands still and one that learns fast; others need theirs."""
    still, fast = rising("markov", 0.0), rising("markov", 0.3)
    assert still < rising("beta[discount=0.8]", 0.0)
    assert fast < rising("beta[discount=0.8]", 0.3)
    assert fast < rising("beta", 0.3) / 2
    assert still < 2 * rising("beta", 0.0)  # which is told that nothing moves


def test_wrong_parameters():
    with pytest.raises(InputError, match="levels=2"):
        predictors.create("markov[levels=2]")
    with pytest.raises(InputError, match="forgetting=0"):
        predictors.create("markov[forgetting=0]")
