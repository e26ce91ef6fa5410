"""Intervals: plain functions from arrays over replicates to numbers.

Replicates are paired: replicate r has the same prompts and the same history for every allocator. The
ratio of two means then varies much less than either mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from rolloutbench.protocol import FloatArray


class Interval(NamedTuple):
    """An estimate with a two-sided confidence interval; arrays or scalars of one shape."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


def mean_interval(values: FloatArray, level: float = 0.95) -> Interval:
    """Mean over the last axis (..., R), with Student's interval. NaN values are left out.

    The interval is NaN where fewer than two values are left.
    """
    valid = ~np.isnan(values)
    count = valid.sum(axis=-1)
    mean = np.where(valid, values, 0.0).sum(axis=-1) / np.where(count > 0, count, np.nan)
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
