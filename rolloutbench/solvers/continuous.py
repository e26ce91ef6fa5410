"""VIP's own solver: Theorems 5.1 and 5.2 by bisection on the price, and its rounding (Algorithm 2).

arXiv 2602.01601, p. 7-8 and p. 30. For comparison: the integer optimum is had directly and faster.
`continuous` returns fractional counts, `rounded` rounds them down and hands out the rest greedily.

Two points the paper leaves open. Prompts of weight 0 get `lower`, as its theorems say, unless the
others cannot take the whole budget; what is left is then shared by raising them to a common level. And
its bracket for the price starts at 0; here the search is on log(price).

The released code solves another problem by another method: p(1-p)/n for both estimators, by SLSQP. And
the curve printed in Fig. 2 is neither theorem's solution but L + (C - BL) a_q / sum(a).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rolloutbench.objectives import DrGRPONoise, RLOONoise
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.solvers.concave import concave_by_table
from rolloutbench.solvers.problem import Allocation, Problem

BISECTIONS = 100
"""Number of bisections: enough to bring any bracket of double-precision prices down to rounding."""


WORTHLESS = 1e-290
"""Smallest weight that counts: the prices of smaller ones would be beyond double precision."""


def continuous(problem: Problem) -> Allocation:
    """Find the optimum over real counts in [lower, upper]; only for objectives `rloo` and `dr_grpo`.

    Raises InputError for other objectives. Source: arXiv 2602.01601, Theorems 5.1 and 5.2.
    """
    objective = problem.objective
    if not isinstance(objective, RLOONoise | DrGRPONoise):
        raise InputError(
            f"solvers continuous and rounded solve rloo and dr_grpo, not {type(objective).__name__}"
        )
    smallest = objective.convex_from
    if (problem.lower < smallest).any() or problem.allow_zero:
        raise InputError(
            f"solvers continuous and rounded need lower >= {smallest} and no allow_zero for this objective "
            f"(lower={problem.lower.min()}, allow_zero={problem.allow_zero})"
        )
    interior = _theorem_5_2 if isinstance(objective, RLOONoise) else _theorem_5_1
    lower, upper = problem.lower.astype(np.float64), problem.upper.astype(np.float64)
    scaled = problem.weights * problem.p * (1 - problem.p)
    scaled[scaled < WORTHLESS] = 0.0

    def counts_at(log_price: FloatArray) -> FloatArray:
        return np.clip(interior(scaled, np.exp(log_price)[:, None]), lower, upper)

    log_price = _bisect(counts_at, problem, low=-700.0, high=1.0)
    counts, price = counts_at(log_price), np.exp(log_price)
    served_all = counts_at(np.full(len(counts), -700.0)).sum(axis=1) <= problem.budget
    if served_all.any():
        worthless = scaled == 0

        def raised_to(level: FloatArray) -> FloatArray:
            return np.where(worthless, np.clip(-level[:, None], lower, upper), upper)

        level = _bisect(raised_to, problem, low=-upper.max() - 1, high=0.0)
        counts = np.where(served_all[:, None], raised_to(level), counts)
        price = np.where(served_all, 0.0, price)
    value = problem.value(counts)
    return Allocation(counts, price, value, value + price * (counts.sum(axis=1) - problem.budget))


def rounded(problem: Problem) -> Allocation:
    """Round the continuous optimum down, then hand out single rollouts to the greatest gain.

    Source: arXiv 2602.01601, Algorithm 2. Raises InputError like `continuous`.
    """
    relaxed = continuous(problem)
    floor = np.floor(np.asarray(relaxed.counts) + 1e-9).astype(np.int64)
    answer = concave_by_table(replace(problem, lower=floor))
    return replace(answer, price=relaxed.price, bound=relaxed.bound)


def _theorem_5_2(scaled: FloatArray, price: FloatArray) -> FloatArray:
    """Counts by Theorem 5.2 (RLOO): n = 1 + sqrt(a / price)."""
    with np.errstate(over="ignore"):
        return 1 + np.sqrt(scaled / price)


def _theorem_5_1(scaled: FloatArray, price: FloatArray) -> FloatArray:
    """Counts by Theorem 5.1 (Dr. GRPO): the greatest root of price n^3 - a n + 2a = 0; n < 3 is of no use.

    With m = a / price it is 2 sqrt(m/3) cos(arccos(-3 sqrt(3/m)) / 3), real from m = 27 on.
    """
    with np.errstate(over="ignore"):
        m = np.maximum(scaled / price, 27.0)
    with np.errstate(invalid="ignore"):
        root = 2 * np.sqrt(m / 3) * np.cos(np.arccos(-3 * np.sqrt(3 / m)) / 3)
    return np.where(np.isinf(m), np.inf, root)


def _bisect(
    counts_at: Callable[[FloatArray], FloatArray], problem: Problem, low: float, high: float
) -> FloatArray:
    """Find where the total of `counts_at`, which falls from `low` to `high`, meets the budget; (R,)."""
    lows, highs = (np.full(len(problem.p), bound) for bound in (low, high))
    for _ in range(BISECTIONS):
        middle = (lows + highs) / 2
        too_many = counts_at(middle).sum(axis=1) > problem.budget
        lows, highs = np.where(too_many, middle, lows), np.where(too_many, highs, middle)
    return highs
