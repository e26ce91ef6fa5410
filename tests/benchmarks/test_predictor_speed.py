"""How long VIP takes to decide: learn from a batch, predict the next one, allocate exactly.

    python -m pytest tests/benchmarks/test_predictor_speed.py --benchmark-only

One replicate, 512 prompts a batch, 8 rollouts each, random unit features. Embeddings come in single
precision, and gp computes in the precision of the features, so both are shown.
"""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from rolloutbench.allocators import allocators
from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.estimators import RLOO
from rolloutbench.protocol import Budget, Outcomes, Setting

BATCH = 512
BUDGET = Budget(BATCH, 8 * BATCH)
PAPER = "gp[noise=0,drift=1,belief=plug_in]"


class Decisions:
    """A VIP allocator in the middle of a run, and batches of outcomes to learn from."""

    def __init__(self, predictor: str, pool: int, dimension: int, precision: str) -> None:
        rng = np.random.default_rng(20260201)
        features = rng.standard_normal((1, pool, dimension), dtype=precision)
        features /= np.sqrt(np.einsum("rqd,rqd->rq", features, features))[..., None]
        allocator = allocators.create(f"vip[predictor={predictor}]")
        assert isinstance(allocator, OneShot)
        self.allocator = allocator
        self.allocator.begin(Setting(BUDGET, RLOO(), "prompt", 1, pool, rng, features=features))
        order = rng.choice(pool, size=(8, 1, BATCH), replace=False)
        counts = np.full((1, BATCH), 8)
        outcomes = [Outcomes(o, counts, rng.binomial(counts, rng.beta(0.4, 0.6, o.shape))) for o in order]
        self.batches = itertools.cycle(zip(outcomes, [*order[1:], order[0]], strict=True))

    def __call__(self) -> np.ndarray:
        outcomes, prompts = next(self.batches)
        self.allocator.observe(outcomes)
        return self.allocator.allocate(prompts, BUDGET)


def assert_allocated(counts: np.ndarray) -> None:
    assert counts.sum() == BUDGET.rollouts
    assert (counts.min(), counts.max()) >= (4, 8)
    assert counts.max() <= 16


@pytest.mark.parametrize(
    ("name", "predictor", "dimension", "precision"),
    [
        ("gp", "gp", 32, "float32"),
        ("gp", "gp", 32, "float64"),
        ("gp", "gp", 384, "float32"),
        ("gp as in the paper", PAPER, 32, "float32"),
        ("gp as in the paper", PAPER, 32, "float64"),
        ("gp as in the paper", PAPER, 384, "float32"),
        ("sparse_gp", "sparse_gp", 32, "float32"),
        ("sparse_gp", "sparse_gp", 384, "float32"),
        ("ensemble", "ensemble", 32, "float32"),
        ("kalman", "kalman", 32, "float32"),
        ("ridge", "ridge", 32, "float32"),
        ("svgp", "svgp", 32, "float32"),
    ],
)
def test_decision(timed, name, predictor, dimension, precision):
    decide = Decisions(predictor, 17_000, dimension, precision)
    assert_allocated(timed(f"{name}, d={dimension}, {precision}", decide, rounds=15))


def test_a_million_prompts(timed, record):
    """The pool's features are all that has its size; memory is measured in a run of its own."""
    tracemalloc.start()
    decide = Decisions("sparse_gp", 1_000_000, 32, "float32")
    for _ in range(2):
        assert_allocated(decide())
    record("peak memory, features included", tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert_allocated(timed("sparse_gp, Q=1,000,000", decide, rounds=21))
