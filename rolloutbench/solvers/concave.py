"""Exact integer allocation where returns diminish: serve the greatest marginal gains first.

For a separable concave gain (or convex loss) the optimum takes the C - sum(lower) greatest of all
marginal gains, so it is fixed by one number, the price: the gain of the last rollout that is served.
Prompts take every rollout that gains more than the price, and rollouts that gain exactly the price are
tied.

Ties are dealt one rollout at a time to the prompt that has fewest so far, then to the one that comes
first. So a batch whose prompts are all worth nothing (every p is 0 or 1) is served uniformly.

Two ways to the price: small problems select it from the table of all gains in one partition; large
ones search for it with the objective's closed-form demand, in memory and time linear in B.
"""

from __future__ import annotations

import numpy as np

from rolloutbench.objectives import ClosedForm
from rolloutbench.protocol import FloatArray, IntArray
from rolloutbench.solvers.problem import Allocation, Problem

TABLE_LIMIT = 2**15
"""Number of gains per replicate up to which the table is the faster way."""
STRIDE = 8
"""Every so-many-th unit of a long table is looked at, to find out which are worth ranking."""


def concave(problem: Problem) -> Allocation:
    """Find the best integer allocation, exactly. Raises InputError where returns do not diminish."""
    problem.require_diminishing_returns("concave")
    width = problem.upper_range[1] - problem.lower_range[0]
    if isinstance(problem.objective, ClosedForm) and problem.p.shape[1] * width > TABLE_LIMIT:
        return concave_by_search(problem)
    return concave_by_table(problem)


def concave_by_table(problem: Problem) -> Allocation:
    """Select the price from the gains of every rollout of every prompt."""
    objective = problem.objective
    assert objective.convex_from is not None
    base = max(problem.lower_range[0], objective.convex_from)
    top = max(problem.upper_range[1], base + 1)
    if isinstance(objective, ClosedForm):
        gains = objective.marginals(problem.p, base + 1, top)
        gains *= problem.weights[:, None, :]
    else:
        gains = -np.diff(problem.losses(top)[..., base:], axis=-1).swapaxes(1, 2)
    if problem.lower_range != (base, base) or problem.upper_range != (top, top):
        gains = _within(gains, base + 1, problem.lower, problem.upper)
    return _finish(problem, *_threshold(gains, problem.lower, problem.budget))


def serve_greatest(gains: FloatArray, lower: IntArray, upper: IntArray, budget: IntArray) -> IntArray:
    """Counts (R, B) in [lower, upper] from a table of marginal gains (R, M, B) of rollouts 1..M.

    Gains do not increase along the middle axis. Ties are dealt as everywhere here.
    """
    _, least, most = _threshold(_within(gains, 1, lower, upper), lower, budget)
    return deal_ties(least, most, budget)


def _within(gains: FloatArray, first: int, lower: IntArray, upper: IntArray) -> FloatArray:
    """Gains (R, M, B) of rollouts `first` and on, -inf where a prompt is not to choose that rollout."""
    units = np.arange(first, first + gains.shape[1])[:, None]
    choice = (units > lower[:, None, :]) & (units <= upper[:, None, :])
    return np.where(choice, gains, -np.inf)


def _threshold(gains: FloatArray, lower: IntArray, budget: IntArray) -> tuple[FloatArray, IntArray, IntArray]:
    """The price (R,), and the least and most counts (R, B) that are best at it."""
    extra = np.maximum(budget - lower.sum(axis=1), 1)
    gains = _worth_ranking(gains, extra)
    price = _kth_greatest(gains.reshape(len(gains), -1), extra)
    least = lower + (gains > price[:, None, None]).sum(axis=1, dtype=np.int32)
    tied = gains == np.where(np.isfinite(price), price, np.nan)[:, None, None]
    return price, least, least + tied.sum(axis=1, dtype=np.int32)


def _worth_ranking(gains: FloatArray, k: IntArray) -> FloatArray:
    """The first units of a table (R, M, B), without those that hold none of the k (R,) greatest gains.

    A gain stands for all before it, so of every STRIDE-th unit a STRIDE-th part of k bounds the price from
    below. Where a prompt's choice begins later than its column no gain does.
    """
    units = gains.shape[1]
    if units < 4 * STRIDE or (gains[:, 0] < gains.max(axis=1)).any():
        return gains
    every = gains[:, STRIDE - 1 :: STRIDE].reshape(len(gains), -1)
    wanted = -(-k // STRIDE)
    least = np.where(wanted <= every.shape[1], _kth_greatest(every, wanted), -np.inf)
    worth = (gains.max(axis=2) >= least[:, None]).any(axis=0)
    return gains[:, : units - int(np.argmax(worth[::-1]))]


def _kth_greatest(values: FloatArray, k: IntArray) -> FloatArray:
    """The k-th greatest entry (R,) of each row of `values` (R, M)."""
    width = values.shape[1]
    if width == 0:
        return np.full(len(values), -np.inf)
    k = np.clip(k, 1, width)
    most = int(k.max())
    if k.min() < most:  # as many infinite entries as are missing make every row's place the same
        missing = np.arange(most - k.min()) < (most - k)[:, None]
        values = np.concatenate([values, np.where(missing, np.inf, -np.inf)], axis=1)
    place = values.shape[1] - most
    return np.partition(values, place, axis=1)[:, place]


def concave_by_search(problem: Problem) -> Allocation:
    """Search for the price, between one at which too much is demanded and one at which too little is.

    The first guess is the price of a sample of the prompts; then follows false position on log(price),
    with bisection whenever that is slow. The search ends when few rollouts, at most one a prompt, lie
    between the two sides: the price is selected among them. Or it ends when the two sides are
    neighbouring numbers: then all rollouts between them are tied.
    """
    objective, p, weights = problem.objective, problem.p, problem.weights
    assert isinstance(objective, ClosedForm)
    demand = objective.demand(p, weights, problem.lower, problem.upper)
    budget = problem.budget.astype(np.float64)
    few = p.shape[1] // 8 + 64

    tiny = np.finfo(np.float64).tiny
    first = weights * objective.marginal(p, np.maximum(problem.lower, objective.convex_from) + 1.0)
    # A little above the greatest gain, so that rounding cannot make anybody demand anything there.
    high = np.maximum(1.01 * np.where(problem.lower < problem.upper, first, 0.0).max(axis=1), tiny)
    low = np.full_like(high, tiny)
    most, least = demand(low[:, None]), demand(high[:, None])
    total_low, total_high = most.sum(axis=1), least.sum(axis=1)
    worthless_left = total_low <= budget  # all that is worth anything is served, and there is more
    middle = np.clip(_price_of_sample(problem), low, high)
    share, step = np.full(len(p), 0.5), 0
    while True:
        searching = ~worthless_left & (np.nextafter(low, high) < high)
        apart = total_low - total_high > few
        if not (searching & apart).any():
            apart = (most - least).max(axis=1) > 1
        searching &= apart
        if not searching.any():
            break
        wanted = demand(middle[:, None])
        total = wanted.sum(axis=1)
        enough = total >= budget
        np.copyto(most, wanted, where=(searching & enough)[:, None])
        np.copyto(least, wanted, where=(searching & ~enough)[:, None])
        low, total_low = np.where(searching & enough, (middle, total), (low, total_low))
        high, total_high = np.where(searching & ~enough, (middle, total), (high, total_high))
        if step == 0:
            middle = middle * np.where(enough, 1.02, 1 / 1.02)
        else:
            slow = np.where(enough, share, 1 - share) > 0.5
            position = (budget - total_high) / np.maximum(total_low - total_high, 1)
            share = np.where(slow, 0.5, np.clip(position, 0.01, 0.99))
            middle = high * (low / high) ** share
        middle = np.clip(middle, np.nextafter(low, high), np.nextafter(high, low))
        step += 1

    columns = np.flatnonzero((most > least).any(axis=0))
    served, between = least.astype(np.int64), most[:, columns] - least[:, columns]
    rest = problem.budget - served.sum(axis=1)
    selecting = ~worthless_left & (between.max(axis=1, initial=0) <= 1) & (rest > 0)
    next_ = weights[:, columns] * objective.marginal(
        p[:, columns], np.maximum(served[:, columns], objective.convex_from) + 1.0
    )
    gains = np.where(between > 0, next_, -np.inf)
    price = np.where(worthless_left, 0.0, high)
    if len(columns):
        price = np.where(selecting, _kth_greatest(gains, np.maximum(rest, 1)), price)
    beyond = selecting[:, None] & (gains > price[:, None])
    tied = np.where(selecting[:, None], gains == price[:, None], between)
    served[:, columns] += beyond
    allowed = served.copy()
    allowed[:, columns] += np.where(beyond, 0, tied).astype(np.int64)
    if worthless_left.any():
        served[worthless_left] = most[worthless_left]
        allowed[worthless_left] = problem.upper[worthless_left]
    return _finish(problem, price, served, allowed)


def _price_of_sample(problem: Problem) -> FloatArray:
    """The price (R,) if every so-many-th prompt had its part of the budget."""
    every = max(1, problem.p.shape[1] // 1024)
    p, weights = problem.p[:, ::every], problem.weights[:, ::every]
    lower, upper = problem.lower[:, ::every], problem.upper[:, ::every]
    slack = problem.upper.sum(axis=1) - problem.lower.sum(axis=1)
    part = (problem.budget - problem.lower.sum(axis=1)) / np.maximum(slack, 1)
    budget = lower.sum(axis=1) + np.floor(part * (upper - lower).sum(axis=1)).astype(np.int64)
    return concave_by_table(Problem(problem.objective, p, weights, budget, lower, upper)).price


def _finish(problem: Problem, price: FloatArray, least: IntArray, most: IntArray) -> Allocation:
    """Deal the ties. Every count in [least, most] minimises the Lagrangian at the price, so the dual's
    value there is the Lagrangian's at the counts that are dealt.
    """
    price = np.where(np.isfinite(price), price, 0.0)
    counts = deal_ties(least, most, problem.budget)
    value = problem.value(counts)
    excess = counts.sum(axis=1) - problem.budget
    return Allocation(counts, price, value, value + problem.sign * price * excess)


def deal_ties(least: IntArray, most: IntArray, budget: IntArray) -> IntArray:
    """Raise counts (R, B) from `least` towards `most` until they sum to `budget` (R,).

    One rollout at a time goes to the prompt with fewest, then to the first: so all are raised to a
    common level, found by bisection, and the rest goes to the first prompts that stand at the level.
    """
    rest = budget - least.sum(axis=1)
    if not rest.any():
        return least
    if (most.sum(axis=1) == budget).all():
        return most
    columns = np.flatnonzero((most > least).any(axis=0))
    counts: IntArray = least.copy()
    least, most = least[:, columns], most[:, columns]
    start = least.sum(axis=1)
    low, high = least.min(axis=1), most.max(axis=1)
    while (low < high).any():
        level = (low + high + 1) // 2
        fits = np.clip(level[:, None], least, most).sum(axis=1) - start <= rest
        low, high = np.where(fits, level, low), np.where(fits, high, level - 1)
    levelled = np.clip(low[:, None], least, most)
    at_level = (levelled == low[:, None]) & (levelled < most)
    rest = rest - (levelled.sum(axis=1) - start)
    counts[:, columns] = levelled + (at_level & (np.cumsum(at_level, axis=1) <= rest[:, None]))
    return counts
