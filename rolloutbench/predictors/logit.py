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
"""Greatest number of Newton steps for a prompt."""
SETTLED = 1e-9
"""A Newton step as small as this is a prompt's last: errors are squared, so the next would be rounding."""


class Logits(NamedTuple):
    """A Gaussian belief about logits: `mean` and `variance`, both (R, B)."""

    mean: FloatArray
    variance: FloatArray


class Observation(NamedTuple):
    """A Gaussian observation of logits: `value` and `precision` (R, B); precision 0 says nothing."""

    value: FloatArray
    precision: FloatArray


class LogitPredictor(Predictor):
    """Base of predictors with a Gaussian belief about the logit of each success probability."""

    @abstractmethod
    def logits(self, prompts: IntArray) -> Logits:
        """Belief (R, B) about the logits of prompts (R, B)."""

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance of p = sigmoid(g)."""
        return logistic_normal(self.logits(prompts))


def logistic_normal(logits: Logits) -> Belief:
    """Mean and variance of sigmoid(g) for Gaussian g, shaped as given."""
    p = np.sqrt(logits.variance)[..., None] * NODES
    p += logits.mean[..., None]
    # The sigmoid, in place. A logit whose exponential overflows has probability 0.
    np.negative(p, out=p)
    with np.errstate(over="ignore"):
        np.exp(p, out=p)
    p += 1
    np.reciprocal(p, out=p)
    mean = np.clip(p @ WEIGHTS, 0.0, 1.0)
    p -= mean[..., None]
    p *= p
    return Belief(mean, p @ WEIGHTS)


def binomial_observation(belief: Logits, successes: IntArray, counts: IntArray) -> Observation:
    """What `successes` among `counts` rollouts (R, B) say of logits believed to be `belief`.

    At the mode g with p = sigmoid(g): precision n p(1-p), value g + (k - n p) / (n p(1-p)).
    """
    mean, variance = belief
    n, k = counts.astype(np.float64), successes.astype(np.float64)
    # The mode's equation is convex below g = 0 and concave above. Newton's method is monotone from a
    # start that the mode lies beyond, seen from 0: the mean where that is so, else 0.
    outwards = (k - n * special.expit(mean)) * mean > 0
    modes = np.where(outwards, mean, 0.0).ravel()
    places = np.arange(modes.size)
    at, prior, size, rate, won = (part.ravel() for part in (modes, mean, variance, n, k))
    # Each prompt stops by its own steps alone, so no answer depends on the others.
    for _ in range(NEWTON_STEPS):
        p = special.expit(at)
        move = (at - prior + size * (rate * p - won)) / (1 + size * rate * p * (1 - p))
        at = at - move
        modes[places] = at
        open_ = np.flatnonzero(np.abs(move) > SETTLED)
        if not len(open_):
            break
        places = places[open_]
        at, prior, size, rate, won = (part[open_] for part in (at, prior, size, rate, won))
    mode = modes.reshape(mean.shape)
    p = special.expit(mode)
    precision = np.where(n > 0, np.maximum(n * p * (1 - p), 1e-12), 0.0)
    value = mode + (k - n * p) / np.where(n > 0, precision, 1.0)
    return Observation(np.where(n > 0, value, mean), precision)


def clipped_logit(successes: IntArray, counts: IntArray, eps: float) -> FloatArray:
    """Logit of k/n clipped to [eps, 1 - eps] (arXiv 2602.01601, p. 6); 0 without rollouts."""
    rate = np.where(counts > 0, successes / np.maximum(counts, 1), 0.5)
    logit: FloatArray = special.logit(np.clip(rate, eps, 1 - eps))
    return logit
