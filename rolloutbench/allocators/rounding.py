"""Whole numbers in proportion to shares, with a given sum."""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import FloatArray, IntArray


def largest_remainder(shares: FloatArray, totals: IntArray) -> IntArray:
    """Counts (R, B) proportional to `shares` (R, B) that sum to `totals` (R,), by Hamilton's method.

    Each gets the whole part of its quota, and the largest fractional parts one more; ties to the first.
    A share of 0 gets nothing, and so does everybody where all shares are 0.
    """
    sums = shares.sum(axis=1, keepdims=True)
    quotas = np.divide(shares, sums, out=np.zeros_like(shares), where=sums > 0) * totals[:, None]
    counts: IntArray = np.floor(quotas).astype(np.int64)
    left = np.where(sums[:, 0] > 0, totals - counts.sum(axis=1), 0)
    remainders = np.where(shares > 0, quotas - counts, -1.0)
    ranks = np.argsort(np.argsort(-remainders, axis=1, kind="stable"), axis=1)
    counts += ranks < left[:, None]
    return counts
