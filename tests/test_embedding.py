"""Vectors of prompts by a real embedding model, into a coach whose predictor needs them."""

import numpy as np
import pytest

from rolloutbench.coach import Coach
from rolloutbench.embedding import embed
from rolloutbench.protocol import InputError

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TEXTS = [f"Add {a} and {b}." for a in range(6) for b in range(4)] + [
    f"Prove that there are infinitely many primes of the form {a}n + 1." for a in range(2, 26)
]


def test_similar_prompts_have_similar_vectors():
    vectors = embed(TEXTS)
    assert vectors.shape == (48, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    assert alike[:24, :24].mean() > alike[:24, 24:].mean() + 0.3


def test_a_predictor_learns_from_words():
    """Sums come right and proofs do not: VIP's process tells prompts that it never rolled out apart."""
    vectors = embed(TEXTS)
    coach = Coach("vip", prompts=6, rollouts=48, pool_size=48, features=vectors, seed=1)
    for _ in range(3):
        while (ask := coach.ask()) is not None:
            coach.tell((ask.each < 24).astype(float), list(range(len(ask.each))))
        coach.batch()
    unseen = np.flatnonzero(~coach.stream.drawn[0])
    mean = coach._allocator.predictor.predict(np.arange(48)[None]).mean[0]
    assert mean[unseen[unseen < 24]].mean() > mean[unseen[unseen >= 24]].mean() + 0.2


def test_wrong_input(tmp_path):
    with pytest.raises(InputError, match="texts has a list: text is expected"):
        embed(["a", ["b"]])
    with pytest.raises(InputError, match="cannot be loaded"):
        embed(["a"], tmp_path)
