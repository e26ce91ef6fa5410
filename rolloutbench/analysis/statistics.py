"""From curves and runs to numbers with intervals: plain functions over arrays.

Replicates are paired: replicate r has the same prompts and the same history for every allocator. The
ratio of two means then varies much less than either mean. Curves are `(R, T)`: R replicates, T
evaluations, accuracy y against what was spent by then, x, each replicate at its own x. Other leading
axes may stand in front of R.

The statistics over runs follow Agarwal et al. 2021 (rliable): interquartile mean, performance profile,
probability of improvement and the stratified bootstrap. Two points differ: a run counts in the profile
when it is at the threshold too (rliable: above it), and replicates are resampled in pairs. Ranks follow
Demsar 2006. Where outcomes are only compared, a missing one (NaN) is the worst, and two missing ones tie.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rolloutbench.protocol import BoolArray, FloatArray, IntArray


class Interval(NamedTuple):
    """An estimate with a two-sided confidence interval; arrays or scalars of one shape."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


class Estimate(NamedTuple):
    """One number with the ends of its 95% interval."""

    estimate: float
    low: float
    high: float


class Reached(NamedTuple):
    """When each run reached its target, in the unit of x, and whether it did; arrays of one shape.

    A run that did not is censored: its `when` is the horizon `until`. So `when` is min(time, until), and
    its plain mean is the restricted mean time (RMST), the area under the survival curve up to `until`:
    with one horizon for all no run is lost earlier, and nothing has to be estimated. `mean_interval`,
    `ratio_interval` and `paired_bootstrap` take `when` as it is.
    """

    when: FloatArray
    reached: BoolArray


class Ranks(NamedTuple):
    """Mean ranks (A,), 1 the best; Friedman's p-value; Nemenyi's critical difference of two mean ranks."""

    mean: FloatArray
    p_value: float
    critical_difference: float


# Curves


def interpolate_curves(x: ArrayLike, y: ArrayLike, at: ArrayLike) -> FloatArray:
    """Height of each curve (R, T) at positions (A,) or (R, A) on its x axis: (R, A), linear in between.

    The first value before a curve starts, NaN beyond its end: nothing is extrapolated. At an x that
    repeats, the last of its values. Curves may be padded with NaN at their end.

    Raises ValueError where x falls, or where NaN stands before a number.
    """
    x, y = _curves(x, y)
    at = np.asarray(at, dtype=np.float64)
    at = np.broadcast_to(at, (*x.shape[:-1], at.shape[-1]))
    passed = np.count_nonzero(x[..., None, :] <= at[..., None], axis=-1)
    before = np.maximum(passed - 1, 0)
    after = np.minimum(passed, x.shape[-1] - 1)
    (x0, y0), (x1, y1) = (
        (np.take_along_axis(x, i, axis=-1), np.take_along_axis(y, i, axis=-1)) for i in (before, after)
    )
    share = (at - x0) / np.where(x1 > x0, x1 - x0, np.nan)
    return np.where(at <= x0, y0, y0 + share * (y1 - y0))


def area_under_curve(x: ArrayLike, y: ArrayLike, until: ArrayLike) -> FloatArray:
    """Mean height of each curve (R, T) from its first x to `until`, () or (R,): (R,), by trapezoids.

    NaN where the curve ends before `until` or does not start before it.

    Raises ValueError like `interpolate_curves`.
    """
    x, y = _curves(x, y)
    end = np.broadcast_to(np.asarray(until, dtype=np.float64), x.shape[:-1])[..., None]
    height = interpolate_curves(x, y, end)
    # Evaluations after `until` move onto it and then have no width.
    inside = x <= end
    heights = np.concatenate([np.where(inside, y, height), height], axis=-1)
    positions = np.concatenate([np.where(inside, x, end), end], axis=-1)
    width = end[..., 0] - x[..., 0]
    area: FloatArray = np.trapezoid(heights, positions, axis=-1)
    return area / np.where(width > 0, width, np.nan)


def first_reached(x: ArrayLike, y: ArrayLike, target: ArrayLike, until: ArrayLike) -> Reached:
    """Where each curve (R, T) first reaches its target, linear between evaluations: `Reached`.

    Targets are (R,), or () for one that all share, and give (R,); several a replicate, (R, M), give
    (R, M). `until`, () or (R,), is the horizon: a run that has not reached its target by then has
    `when = until` and `reached = False`.

    Raises ValueError like `interpolate_curves`, where a target is not finite, and where a curve ends
    before `until` without having reached its target: nobody knows what it would have done.
    """
    x, y = _curves(x, y)
    target = np.asarray(target, dtype=np.float64)
    if not np.isfinite(target).all():
        raise ValueError("target: must be finite")
    several = target.ndim >= x.ndim
    target = target if several else target[..., None]
    target = np.broadcast_to(target, (*x.shape[:-1], target.shape[-1]))
    horizon = np.broadcast_to(np.asarray(until, dtype=np.float64), x.shape[:-1])[..., None]

    above = y[..., None, :] >= target[..., None]
    after = above.argmax(axis=-1)
    before = np.maximum(after - 1, 0)
    (x0, y0), (x1, y1) = (
        (np.take_along_axis(x, i, axis=-1), np.take_along_axis(y, i, axis=-1)) for i in (before, after)
    )
    # Without a rise the target is reached at the first evaluation, or never: then x1 = x0.
    share = (target - y0) / np.where(y1 > y0, y1 - y0, 1.0)
    when = x0 + share * (x1 - x0)
    reached = above.any(axis=-1) & (when <= horizon)

    end = np.fmax.reduce(x, axis=-1, keepdims=True)
    unknown = ~reached & ~(end >= horizon)
    if unknown.any():
        raise ValueError(
            f"until={np.max(horizon):g}: {unknown.any(axis=-1).sum()} curves end before it, the first at "
            f"{np.min(end[unknown.any(axis=-1)]):g}, without having reached their target"
        )
    when = np.where(reached, when, horizon)
    return Reached(when, reached) if several else Reached(when[..., 0], reached[..., 0])


def median_reached(times: Reached, level: float = 0.95) -> Interval:
    """Median over the last axis (..., R) of the time to a target, with its exact interval.

    This is the Kaplan-Meier median: the first time by which half of the runs are there, infinite where
    fewer than half ever are. All are censored at one horizon, so it is a plain order statistic, and its
    interval is that of the sign test (scipy.stats.quantile_test). An upper end may be infinite; both
    ends are NaN where R is too small for the level.
    """
    ordered = np.sort(np.where(times.reached, times.when, np.inf), axis=-1)
    runs = ordered.shape[-1]
    ranks = stats.binom(runs, 0.5)
    low, high = int(ranks.ppf((1 - level) / 2)) - 1, int(ranks.isf((1 - level) / 2))
    median = ordered[..., (runs - 1) // 2]
    if low < 0:  # and, by symmetry, high >= runs
        return Interval(median, np.full_like(median, np.nan), np.full_like(median, np.nan))
    return Interval(median, ordered[..., low], ordered[..., high])


def _curves(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    known = ~(np.isnan(x) | np.isnan(y))
    if (known[..., 1:] & ~known[..., :-1]).any():
        raise ValueError("a curve has NaN before its end")
    x = np.where(known, x, np.nan)
    if (np.diff(x, axis=-1) < 0).any():
        raise ValueError("x falls along a curve")
    return x, y


# Means and their ratios, in closed form


def mean_interval(values: FloatArray, level: float = 0.95) -> Interval:
    """Mean over the last axis (..., R), with Student's interval. NaN values are left out.

    The interval is NaN where fewer than two values are left.
    """
    valid = ~np.isnan(values)
    count = valid.sum(axis=-1)
    mean = _mean(values)
    deviations = np.where(valid, values - mean[..., None], 0.0)
    return _student(mean, (deviations**2).sum(axis=-1), count, level)


def ratio_interval(values: FloatArray, baseline: FloatArray, level: float = 0.95) -> Interval:
    """Ratio of means over the last axis (..., R) of paired values, with its interval.

    By the delta method on the paired residuals values - ratio * baseline, with Student's quantile.
    NaN where the baseline's mean is 0 or fewer than two pairs are complete.
    """
    valid = ~(np.isnan(values) | np.isnan(baseline))
    count = valid.sum(axis=-1)
    below = np.where(valid, baseline, 0.0).sum(axis=-1)
    below = np.where(below == 0, np.nan, below)
    ratio = np.where(valid, values, 0.0).sum(axis=-1) / below
    residuals = np.where(valid, values - ratio[..., None] * baseline, 0.0)
    scale = (below / np.maximum(count, 1)) ** 2
    return _student(ratio, (residuals**2).sum(axis=-1) / scale, count, level)


def _student(centre: FloatArray, squares: FloatArray, count: FloatArray, level: float) -> Interval:
    freedom = np.where(count > 1, count - 1, np.nan)
    error = np.sqrt(squares / freedom / np.maximum(count, 1))
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    return Interval(centre, centre - half, centre + half)


# Any statistic, by the bootstrap


def iqm(values: FloatArray) -> FloatArray:
    """Interquartile mean over the last axis (..., R): without the lowest and highest quarter, rounded down.

    NaN values are left out before the quarters are counted; NaN where none is left. Like
    scipy.stats.trim_mean(values, 0.25), for rows that differ in what is missing.
    """
    ordered = np.sort(values, axis=-1)  # puts NaN last
    runs = ordered.shape[-1]
    if not np.isnan(ordered[..., -1:]).any():  # the usual case, in half the time
        middle: FloatArray = ordered[..., runs // 4 : runs - runs // 4].mean(axis=-1)
        return middle
    count = np.count_nonzero(~np.isnan(ordered), axis=-1, keepdims=True)
    cut = count // 4
    rank = np.arange(runs)
    total: FloatArray = np.add.reduce(ordered, axis=-1, where=(rank >= cut) & (rank < count - cut))
    return total / np.where(count > 0, count - 2 * cut, np.nan)[..., 0]


def ratio_of_means(values: FloatArray, baseline: FloatArray) -> FloatArray:
    """Ratio of the means over the last axis (..., R); NaN where the baseline's is 0."""
    return _ratio(_mean(values), _mean(baseline))


def ratio_of_iqms(values: FloatArray, baseline: FloatArray) -> FloatArray:
    """Ratio of the interquartile means over the last axis (..., R); NaN where the baseline's is 0."""
    return _ratio(iqm(values), iqm(baseline))


def paired_bootstrap(
    statistic: Callable[..., FloatArray],
    *values: FloatArray,
    level: float = 0.95,
    resamples: int = 2000,
    method: Literal["expanded", "percentile", "BCa"] = "expanded",
    seed: int = 0,
) -> Interval:
    """A statistic of one or several arrays (..., R) of paired replicates, with its bootstrap interval.

    `statistic(*values)` reduces the last axis, as `iqm`, `ratio_of_means` or
    `lambda a, b: iqm(a) - iqm(b)`. The same replicates are drawn for all arrays and along all other
    axes, so a row's interval does not depend on the rows beside it. A replicate that is NaN in one of
    the arrays is NaN in all that the statistic sees.

    `percentile` and `BCa` are scipy.stats.bootstrap's. Both are too narrow for few replicates: a ratio of
    skewed means lies in them in 87% of studies at R = 8 and 93% at R = 32, instead of 95%. `expanded`
    takes the percentiles further out, by as much as the mean of normal values needs (Hesterberg 2015,
    "What teachers should know about the bootstrap"): 93% and 94%; an IQM gets 97%.

    The interval is NaN where R < 2 or where the statistic of some resample is.
    """
    missing = np.logical_or.reduce(np.broadcast_arrays(*(np.isnan(v) for v in values)))
    pairs = [np.where(missing, np.nan, v) for v in values]
    estimate = np.asarray(statistic(*pairs))
    runs = pairs[0].shape[-1]
    if runs < 2:
        return Interval(estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan))
    if method == "expanded":
        quantile = stats.t.ppf((1 + level) / 2, runs - 1) * np.sqrt(runs / (runs - 1))
        level = 1 - 2 * float(stats.norm.sf(quantile))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            pairs,
            lambda *drawn, axis: statistic(*drawn),
            paired=True,
            vectorized=True,
            axis=-1,
            confidence_level=level,
            n_resamples=resamples,
            batch=max(1, _BLOCK // pairs[0].size),
            method="BCa" if method == "BCa" else "percentile",
            rng=np.random.default_rng(seed),
        )
    # BCa divides by the spread: where there is none, as for a baseline against itself, all of it is a point.
    drawn = found.bootstrap_distribution
    point = drawn.min(axis=-1) == drawn.max(axis=-1)
    low, high = (np.where(point, estimate, end) for end in found.confidence_interval)
    return Interval(estimate, low, high)


_BLOCK = 500_000
"""Number of random numbers that the bootstrap draws at a time: few enough to stay in the cache."""


def _mean(values: FloatArray) -> FloatArray:
    valid = ~np.isnan(values)
    count = valid.sum(axis=-1)
    mean: FloatArray = np.add.reduce(values, axis=-1, where=valid) / np.where(count > 0, count, np.nan)
    return mean


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    ratio: FloatArray = above / np.where(below == 0, np.nan, below)
    return ratio


# Over scenarios


def probability_of_improvement(
    x: FloatArray,
    y: FloatArray,
    *,
    paired: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Probability that a run of x has a higher score than one of y, ties as half: scores (S, R) or (R,).

    In each scenario over all R^2 pairs of runs (Agarwal et al. 2021), or with `paired` over the R pairs
    of one replicate: the first asks which is higher on a task drawn anew for each, the second which is
    higher on the same. Then the mean over scenarios. The interval is a percentile one; in each scenario
    replicates are drawn anew, x and y together.
    """
    x, y = (_worst_where_missing(np.atleast_2d(scores)) for scores in (x, y))
    runs = x.shape[-1]
    drawn = _multiplicities(x.shape, resamples, seed)
    once = np.ones((len(x), 1, runs))
    if paired:
        higher = (x > y) + 0.5 * (x == y)
        shares = [(counts @ higher[..., None])[..., 0] / runs for counts in (once, drawn)]
    else:
        higher = (x[..., :, None] > y[..., None, :]) + 0.5 * (x[..., :, None] == y[..., None, :])
        shares = [((counts @ higher) * counts).sum(axis=-1) / runs**2 for counts in (once, drawn)]
    return _percentile_interval(shares[0].mean(axis=0)[0], shares[1].mean(axis=0), level)


def performance_profile(
    scores: FloatArray, thresholds: FloatArray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Share of all runs with a score of at least each threshold (T,): (T,), with a pointwise band.

    Scores are (S, R), scenario by replicate, or (R,). A missing score (NaN) is below every threshold.
    The band is a percentile one; in each scenario replicates are drawn anew. Agarwal et al. 2021.
    """
    scores = np.atleast_2d(scores)
    passed = (scores[..., None] >= thresholds).astype(np.float64)
    drawn = _multiplicities(scores.shape, resamples, seed)
    return _percentile_interval(passed.mean(axis=(0, 1)), (drawn @ passed).sum(axis=0) / scores.size, level)


def average_ranks(scores: FloatArray, level: float = 0.95) -> Ranks:
    """Mean rank of each of A allocators over N scenarios, from scores (A, N), higher is better.

    Rank 1 is the best; ties share their mean rank; an allocator without a score (NaN) is last. Two
    allocators differ where their mean ranks do by more than the critical difference of Nemenyi's test,
    which looks at all pairs at once. Friedman's p-value, corrected for ties, is for the hypothesis that
    all are alike; NaN for A = 2, where it is not defined, and where all are tied everywhere. Demsar 2006.

    Raises ValueError where A < 2.
    """
    allocators, scenarios = scores.shape
    if allocators < 2:
        raise ValueError(f"scores: ranks need at least 2 allocators, found {allocators}")
    ranks = stats.rankdata(-_worst_where_missing(scores), axis=0)
    tested = allocators > 2 and bool((ranks != ranks[0]).any())
    p_value = float(stats.friedmanchisquare(*ranks).pvalue) if tested else np.nan
    quantile = stats.studentized_range.ppf(level, allocators, np.inf) / np.sqrt(2)
    difference = quantile * np.sqrt(allocators * (allocators + 1) / (6 * scenarios))
    return Ranks(ranks.mean(axis=1), p_value, float(difference))


def crossfit_choice(values: FloatArray) -> IntArray:
    """Choose for each replicate the best of L settings, (..., L, R) to (..., R), by the other half.

    Even replicates get the setting with the highest mean over the odd ones, and the other way round. So
    `np.take_along_axis(values, choice[..., None, :], axis=-2)` is what a setting tuned on other data
    gives, while the best of L means is too high by the luck of the best. A missing value (NaN) is the
    worst: a setting that failed once is not chosen; the first where all failed.

    Raises ValueError where R < 2.
    """
    if values.shape[-1] < 2:
        raise ValueError(f"values: a choice on other replicates needs at least 2, found {values.shape[-1]}")
    odd = np.arange(values.shape[-1]) % 2 == 1
    values = _worst_where_missing(values)
    on_odd, on_even = (values[..., half].mean(axis=-1).argmax(axis=-1) for half in (odd, ~odd))
    choice: IntArray = np.where(odd, on_even[..., None], on_odd[..., None])
    return choice


def _worst_where_missing(values: FloatArray) -> FloatArray:
    return np.where(np.isnan(values), -np.inf, values)


def _multiplicities(shape: tuple[int, ...], resamples: int, seed: int) -> FloatArray:
    """How often each replicate is in each resample (S, resamples, R), drawn in each scenario by itself."""
    scenarios, runs = shape
    chances = np.full(runs, 1 / runs)
    drawn = np.random.default_rng(seed).multinomial(runs, chances, size=(scenarios, resamples))
    return drawn.astype(np.float64)


def _percentile_interval(estimate: FloatArray, resampled: FloatArray, level: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(estimate, low, high)
