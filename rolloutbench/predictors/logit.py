"""Gaussian beliefs about g = logit p: what they say of p, and what k successes in n say of g.

Two steps that every predictor on the logit scale needs, both without sampling. A belief about g
becomes one about p by the trapezoid rule, which for integrands as smooth as these is exact to 1e-8 up
to a standard deviation of 5; Gauss-Hermite nodes would lie too far apart there. And outcomes become a
Gaussian observation of g by linearising the binomial likelihood at the mode of the prompt's own
posterior: one Newton step of that likelihood, as in an iterated extended Kalman filter, so the product
of belief and observation is the Laplace approximation. The other usual choices are worse where it
matters. Linearised at the predicted mean, a surprise overshoots: eight successes of a prompt believed
at logit -4 +- 1 would be taken for logit +2.9, the mode is 0. The smoothed empirical logit, log((k + 1/2)
/ (n - k + 1/2)), never learns that a prompt is harder than one visit can show.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
from scipy import special

from rolloutbench.protocol import Belief, FloatArray, IntArray, Predictor

NODES = np.linspace(-6.5, 6.5, 64)
WEIGHTS = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()
"""Nodes and weights of E f(z) for a standard Gaussian z."""

NEWTON_STEPS = 30
"""A fixed number, so that no replicate's answer depends on the others."""


class Logits(NamedTuple):
    """A Gaussian belief about logits: `mean` and `variance`, both (R, B)."""

    mean: FloatArray
    variance: FloatArray


class Observation(NamedTuple):
    """A Gaussian observation of logits: `value` and `precision` (R, B); precision 0 says nothing."""

    value: FloatArray
    precision: FloatArray


class LogitPredictor(Predictor):
    """A predictor that believes in Gaussian logits."""

    @abstractmethod
    def logits(self, prompts: IntArray) -> Logits:
        """Belief (R, B) about the logits of prompts (R, B)."""

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance of p = sigmoid(g)."""
        return logistic_normal(self.logits(prompts))


def logistic_normal(logits: Logits) -> Belief:
    """Mean and variance of sigmoid(g) for Gaussian g, shaped as given."""
    std = np.sqrt(logits.variance)
    p = special.expit(logits.mean[..., None] + std[..., None] * NODES)
    mean = np.clip(p @ WEIGHTS, 0.0, 1.0)
    return Belief(mean, (p - mean[..., None]) ** 2 @ WEIGHTS)


def binomial_observation(belief: Logits, successes: IntArray, counts: IntArray) -> Observation:
    """What `successes` among `counts` rollouts (R, B) say of logits believed to be `belief`.

    At the mode g with p = sigmoid(g): precision n p(1-p), value g + (k - n p) / (n p(1-p)).
    """
    mean, variance = belief
    n, k = counts.astype(np.float64), successes.astype(np.float64)
    # The mode's equation is convex below g = 0 and concave above. Newton's method is monotone from a
    # start that the mode lies beyond, seen from 0: the mean where that is so, else 0.
    outwards = (k - n * special.expit(mean)) * mean > 0
    mode = np.where(outwards, mean, 0.0)
    for _ in range(NEWTON_STEPS):
        p = special.expit(mode)
        mode = mode - (mode - mean + variance * (n * p - k)) / (1 + variance * n * p * (1 - p))
    p = special.expit(mode)
    precision = np.where(n > 0, np.maximum(n * p * (1 - p), 1e-12), 0.0)
    value = mode + (k - n * p) / np.where(n > 0, precision, 1.0)
    return Observation(np.where(n > 0, value, mean), precision)


def clipped_logit(successes: IntArray, counts: IntArray, eps: float) -> FloatArray:
    """logit of k/n clipped to [eps, 1 - eps] (arXiv 2602.01601, p. 6); 0 without rollouts."""
    rate = np.where(counts > 0, successes / np.maximum(counts, 1), 0.5)
    logit: FloatArray = special.logit(np.clip(rate, eps, 1 - eps))
    return logit
