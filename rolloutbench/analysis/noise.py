"""How noisy a rollout's score is beside its signal: a score bank's `noise_ratio` and `success_noise`.

Let m1 and m0 be a prompt's mean score among its successes and failures, and T1, T0 the traces of the scores'
covariances. In the simulator z = (r - p) phi + xi, so that E(m1 - m0) = phi, as it is for any policy, whose
score has mean 0: E(z | r) = grad p / (p or p - 1), and phi is then the gradient of the prompt's logit.
|m1 - m0|^2 - T1/k - T0/(n - k) is an unbiased look at |phi|^2. T0 is the simulator's d sigma^2, and T1 that
times `success_noise`. The noise of a REINFORCE gradient with advantages r - p is p (1-p) [(1-p) T1 + p T0]:
by what stands in brackets two tasks can be compared, however they share it between T1 and T0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rolloutbench.analysis.statistics import Estimate
from rolloutbench.protocol import FloatArray, IntArray

RESAMPLES = 2000
"""Number of bootstrap samples of prompts behind an interval."""
ROUNDING = 1e-12
"""Scatter of a group's scores below this share of their squares is rounding: the scores are all the same."""
ENDS = (0.025, 0.975)
"""Quantiles at the ends of an interval."""


class NoiseFit(NamedTuple):
    """Noise against the signal |phi|^2, infinite where no signal can be told from 0.

    `gradient`: [(1-p) T1 + p T0] / |phi|^2, as the noise enters a gradient. `failures`: T0 / |phi|^2, a
    scenario's `noise_ratio`. `success_noise`: T1 / T0. `prompts`: number of prompts behind them.
    """

    gradient: Estimate
    failures: Estimate
    success_noise: Estimate
    prompts: int


def fit_noise(
    prompts: IntArray, steps: IntArray, rewards: IntArray, sketches: npt.NDArray[np.floating[Any]]
) -> NoiseFit | None:
    """Fit the noise of a rollout's score against its signal to N rollouts with scores (N, D).

    Groups of one prompt and step with at least two successes and two failures count, by k (n-k) / n, and
    each in units of its own scatter, so that a prompt with enormous scores does not decide for all. The
    interval is by bootstrap over prompts. None where there is no such group.
    """
    order = np.lexsort((rewards, steps, prompts))
    keys = np.stack([prompts, steps, rewards], axis=1)[order]
    starts = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1)))
    counts = np.diff(np.append(starts, len(keys))).astype(np.float64)
    sorted_sketches = sketches[order]
    sums = np.add.reduceat(sorted_sketches, starts, axis=0, dtype=np.float64)
    squares = np.add.reduceat(
        np.einsum("nd,nd->n", sorted_sketches, sorted_sketches, dtype=np.float64), starts
    )
    keys, means = keys[starts], sums / counts[:, None]
    scatter = squares - counts * (means**2).sum(axis=1)
    scatter[scatter < ROUNDING * squares] = 0
    traces = scatter / np.maximum(counts - 1, 1)
    paired = (keys[1:, :2] == keys[:-1, :2]).all(axis=1) & (np.minimum(counts[1:], counts[:-1]) >= 2)
    paired &= traces[1:] + traces[:-1] > 0
    lost = np.flatnonzero(paired)  # a group's failures; its successes come next
    if not len(lost):
        return None
    won = lost + 1
    failures, successes = counts[lost], counts[won]
    size = failures + successes
    apart = ((means[won] - means[lost]) ** 2).sum(axis=1)
    signal = apart - traces[won] / successes - traces[lost] / failures
    noise = (failures * traces[won] + successes * traces[lost]) / size
    within = (successes - 1) * traces[won] + (failures - 1) * traces[lost]
    weight = successes * failures / size
    weight /= within + weight * apart  # all the scatter of the group's scores about their mean
    weight *= size - 1
    _, place = np.unique(keys[lost, 0], return_inverse=True)
    known = int(place.max()) + 1
    parts = signal, noise, traces[lost], traces[won]
    by_prompt = np.stack([np.bincount(place, weight * part, known) for part in parts], axis=1)
    drawn = np.random.default_rng(0).multinomial(known, np.full(known, 1 / known), size=RESAMPLES)
    totals = np.concatenate([by_prompt.sum(axis=0, keepdims=True), drawn @ by_prompt])
    of_signal, of_noise, of_failures, of_successes = totals.T
    return NoiseFit(
        _over_signal(of_noise, of_signal),
        _over_signal(of_failures, of_signal),
        _ratio(of_successes, of_failures),
        known,
    )


def _over_signal(noise: FloatArray, signal: FloatArray) -> Estimate:
    """Noise over signal, infinite where that is not above 0; by the inverse, whose quantiles are finite."""
    estimate, low, high = _ratio(signal, noise)
    return Estimate(*(1 / x if x > 0 else math.inf for x in (estimate, high, low)))


def _ratio(above: FloatArray, below: FloatArray) -> Estimate:
    """The first ratio is the estimate, the others are bootstrap samples; infinite where `below` is 0."""
    ratios = np.divide(above, below, out=np.full(len(above), np.inf), where=below > 0)
    return Estimate(float(ratios[0]), *np.quantile(ratios[1:], ENDS, method="nearest").tolist())
