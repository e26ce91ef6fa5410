"""Exact integer allocation for any table of values, by dynamic programming over the budget.

It needs no concavity and takes holes in the range of counts ("none, or at least m"). Its certificate
is the Lagrangian dual, maximised exactly: the value of the concave relaxation. A gap between the two
is not an error but the duality gap of the problem.

The dual also says what to leave out. At its price every count costs a prompt so much more than its best
one, and no allocation is best that has a count which costs more than the gap. So the program runs over
the counts that cost least, the core (Pisinger, 1997), and where its answer does not prove that the others
may be left out, once more over all that cost no more than the gap it found; over a larger core where it
found none. Cost O(B C U) per replicate where the core is everything; mostly it is a few counts of a few
prompts.

Among equally good allocations the later prompt of the batch gets fewer rollouts.
"""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import BoolArray, FloatArray, InputError, IntArray
from rolloutbench.solvers.problem import Allocation, Problem

FURTHER = 0.25
"""Counts in the first core beyond each prompt's best one, as a share of the number of prompts."""
GROWTH = 3
"""How many times as many are in the next core where the first has no counts that sum to the budget."""


def dynamic(problem: Problem) -> Allocation:
    """Find the best integer allocation, exactly, for any table of values.

    Raises InputError where no allowed counts sum to the budget.
    """
    losses = problem.allowed_losses()
    total = np.full(len(losses), np.inf)
    if np.isfinite(losses).any(axis=2).all():
        price, bound = lagrangian_dual(losses, problem.budget)
        counts, total = _by_core(losses, problem.budget, price, bound)
    if not np.isfinite(total).all():
        raise InputError(
            f"budget={problem.budget.tolist()[0]}: no allowed counts of {losses.shape[1]} prompts sum to it"
        )
    return Allocation(counts, price, problem.sign * total, problem.sign * bound)


def _by_core(
    losses: FloatArray, budget: IntArray, price: FloatArray, bound: FloatArray
) -> tuple[IntArray, FloatArray]:
    """The `shortest_path` over the counts that the dual's price and bound (R,) do not rule out."""
    replicates, prompts, width = losses.shape
    dearer = losses + price[:, None, None] * np.arange(width)
    dearer -= dearer.min(axis=2, keepdims=True)
    rounding = 1e-12 * (np.abs(bound) + np.abs(price) * budget)
    sizes = prompts + int(FURTHER * prompts) * GROWTH ** np.arange(4)
    sizes = sizes[sizes < prompts * width]
    ranked = np.partition(dearer.reshape(replicates, -1), sizes, axis=1)[:, sizes]
    cores = iter([*(ranked + rounding[:, None]).T, np.full(replicates, np.inf)])
    within = next(cores)
    counts, total = np.empty((replicates, prompts), dtype=np.int64), np.empty(replicates)
    left = np.arange(replicates)
    while len(left):
        core = np.where(dearer[left] <= within[left, None, None], losses[left], np.inf)
        counts[left], total[left] = shortest_path(core, budget[left])
        left = left[total[left] - bound[left] > within[left] - rounding[left]]
        gap = total - bound + 2 * rounding
        within = np.where(np.isfinite(gap), gap, next(cores, within))
    return counts, total


def shortest_path(losses: FloatArray, budget: IntArray) -> tuple[IntArray, FloatArray]:
    """Counts (R, B) with the least total of `losses` (R, B, W) that sum to budget (R,), and that total (R,).

    The total is infinite where there are none.
    """
    replicates, prompts, _ = losses.shape
    # The least allowed count of every prompt is spent beforehand, and the rest is what a row is for.
    base = np.argmax(np.isfinite(losses), axis=2)
    rest = budget - base.sum(axis=1)
    width = int(rest.max(initial=0)) + 1
    further = base[..., None] + np.arange(losses.shape[2])
    inside = further < losses.shape[2]
    losses = np.take_along_axis(losses, np.where(inside, further, 0), axis=2)
    losses = np.where(inside, losses, np.inf).transpose(1, 2, 0)[..., None]  # (B, W, R, 1)
    some: BoolArray = np.asarray(np.isfinite(losses).any(axis=(2, 3)))
    best = np.full((replicates, width), np.inf)
    best[:, 0] = 0.0
    choice = np.zeros((prompts, replicates, width), dtype=np.int16 if losses.shape[1] < 2**15 else np.int64)
    for prompt in range(prompts):
        reached = best + losses[prompt, 0]
        for n in np.flatnonzero(some[prompt, 1:width]) + 1:
            candidate = best[:, : width - n] + losses[prompt, n]
            better = candidate < reached[:, n:]
            np.copyto(reached[:, n:], candidate, where=better)
            np.copyto(choice[prompt, :, n:], n, where=better)
        best = reached
    replicate = np.arange(replicates)
    left = np.maximum(rest, 0)
    total = np.where(rest >= 0, best[replicate, left], np.inf)
    counts = base
    for prompt in reversed(range(prompts)):
        taken = choice[prompt, replicate, left]
        counts[:, prompt] += taken
        left -= taken
    return counts, total


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
