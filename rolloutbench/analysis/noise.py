"""How noisy a rollout's score is beside its signal: what a score bank says of a scenario's `noise_ratio`.

Let m1 and m0 be a prompt's mean score among its successes and failures, and T1, T0 the traces of the scores'
covariances. In the simulator z = (r - p) phi + xi, so that E(m1 - m0) = phi, as it is for any policy, whose
score has mean 0: E(z | r) = grad p / (p or p - 1), and phi is then the gradient of the prompt's logit.
|m1 - m0|^2 - T1/k - T0/(n - k) is an unbiased look at |phi|^2. The noise of a REINFORCE gradient with
advantages r - p is p (1-p) [(1-p) T1 + p T0], the simulator's p (1-p) d sigma^2.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rolloutbench.protocol import IntArray

RESAMPLES = 2000
"""Number of bootstrap samples of prompts behind an interval."""


class NoiseFit(NamedTuple):
    """Noise ratio d sigma^2 / |phi|^2 with a 95% interval; infinite where no signal can be told from 0."""

    ratio: float
    low: float
    high: float
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
    traces = (squares - counts * (means**2).sum(axis=1)) / np.maximum(counts - 1, 1)
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
    by_prompt = np.stack([np.bincount(place, weight * part, known) for part in (signal, noise)], axis=1)
    drawn = np.random.default_rng(0).multinomial(known, np.full(known, 1 / known), size=RESAMPLES)
    totals = np.concatenate([by_prompt.sum(axis=0, keepdims=True), drawn @ by_prompt])
    signal_to_noise = totals[:, 0] / totals[:, 1]
    least, most = np.quantile(signal_to_noise[1:], [0.025, 0.975])
    ratio, low, high = (1 / float(x) if x > 0 else math.inf for x in (signal_to_noise[0], most, least))
    return NoiseFit(ratio, low, high, known)
