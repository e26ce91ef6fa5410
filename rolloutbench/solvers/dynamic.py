"""Exact integer allocation for any table of values, by dynamic programming over the budget.

It needs no concavity and takes holes in the range of counts ("none, or at least m"). Its certificate
is the Lagrangian dual, maximised exactly: the value of the concave relaxation. A gap between the two
is not an error but the duality gap of the problem. Cost O(B C U) per replicate.

Among equally good allocations the later prompt of the batch gets fewer rollouts.
"""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import FloatArray, InputError, IntArray
from rolloutbench.solvers.problem import Allocation, Problem


def dynamic(problem: Problem) -> Allocation:
    """The best integer allocation, exactly. Raises InputError where no allowed counts sum to the budget."""
    losses = problem.allowed_losses()
    counts = _shortest_path(losses, problem.budget)
    price, bound = lagrangian_dual(losses, problem.budget)
    return Allocation(counts, price, problem.value(counts), problem.sign * bound)


def _shortest_path(losses: FloatArray, budget: IntArray) -> IntArray:
    """Counts (R, B) with the least total of `losses` (R, B, W) that sum to budget (R,)."""
    replicates, prompts, width = losses.shape
    # Counts below the least allowed one of all are spent beforehand, which shortens every row.
    base = int(np.argmax(np.isfinite(losses).any(axis=(0, 1))))
    losses, width = losses[..., base:], width - base
    rest = budget - base * prompts
    top = int(rest.max(initial=0))
    best = np.full((replicates, top + 1), np.inf)
    best[:, 0] = 0.0
    choice = np.zeros((prompts, replicates, top + 1), dtype=np.int16 if width < 2**15 else np.int64)
    for prompt in range(prompts):
        reached = np.full_like(best, np.inf)
        for n in range(min(width, top + 1)):
            candidate = best[:, : top + 1 - n] + losses[:, prompt, n, None]
            better = candidate < reached[:, n:]
            np.copyto(reached[:, n:], candidate, where=better)
            np.copyto(choice[prompt, :, n:], n, where=better)
        best = reached
    replicate = np.arange(replicates)
    if (rest < 0).any() or not np.isfinite(best[replicate, np.maximum(rest, 0)]).all():
        raise InputError(f"budget={budget.tolist()[0]}: no allowed counts of {prompts} prompts sum to it")
    counts = np.empty((replicates, prompts), dtype=np.int64)
    left = rest.copy()
    for prompt in reversed(range(prompts)):
        counts[:, prompt] = choice[prompt, replicate, left]
        left -= counts[:, prompt]
    return counts + base


def lagrangian_dual(losses: FloatArray, budget: IntArray) -> tuple[FloatArray, FloatArray]:
    """Maximise min_n sum_i (loss_i(n_i) + price n_i) - price * budget over the price: price, value.

    The dual is concave and piecewise linear in the price. Starting from its outermost lines (everybody
    takes most, everybody takes least) the price is moved to where the two lines meet, and one of them
    is replaced by the line found there, until there is none below.
    """
    rows = np.arange(losses.shape[1])
    n = np.arange(losses.shape[2])
    allowed = np.isfinite(losses)
    most = losses.shape[2] - 1 - np.argmax(allowed[..., ::-1], axis=-1)
    least = np.argmax(allowed, axis=-1)

    def line(counts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Total loss and total count (R,) of counts (R, B)."""
        replicate = np.arange(len(counts))[:, None]
        return losses[replicate, rows, counts].sum(axis=1), counts.sum(axis=1).astype(np.float64)

    loss_low, total_low = line(most)
    loss_high, total_high = line(least)
    price = np.zeros(len(losses))
    value = np.where(total_low == total_high, loss_low, -np.inf)
    active = total_low > total_high
    while active.any():
        price = np.where(active, (loss_high - loss_low) / np.where(active, total_low - total_high, 1), price)
        loss, total = line(np.argmin(losses + price[:, None, None] * n, axis=-1))
        meeting = loss_low + price * total_low
        found = loss + price * total
        value = np.where(active, found - price * budget, value)
        active &= found < meeting - 1e-15 * np.abs(meeting)
        active &= (total < total_low) & (total > total_high)
        enough = active & (total >= budget)
        short = active & (total < budget)
        loss_low, total_low = np.where(enough, loss, loss_low), np.where(enough, total, total_low)
        loss_high, total_high = np.where(short, loss, loss_high), np.where(short, total, total_high)
    return price, value
