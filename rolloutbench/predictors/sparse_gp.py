"""A Gaussian process in random Fourier features: constant cost per step, however large the pool is.

The RBF kernel of `gp` is the expectation of phi(x) . phi(y) over features phi = (cos w.x, sin w.x) /
sqrt(D/2) with Gaussian frequencies w (Rahimi & Recht, 2007); orthogonal frequencies bring it with less
error (Yu et al., arXiv 1610.09072). So logits are phi . weights + a residual of each prompt's own, and
learning is recursive Bayesian linear regression on D weights, with the binomial noise of `gp`. At each
step the precision P of the weights forgets: P <- discount P + (1 - discount) P_0. Features are computed
for the batch alone, and once a step; nothing has the size of the pool.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors.cholesky import inverse_factor, lengths_squared
from rolloutbench.predictors.features import length_scales, require_features
from rolloutbench.predictors.logit import LogitPredictor, Logits, binomial_observation
from rolloutbench.protocol import FloatArray, IntArray, Outcomes, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class SparseGP(LogitPredictor):
    """Gaussian process in `frequencies` random frequencies, with forgetting; for pools of any size."""

    frequencies: Annotated[int, Field(ge=1)] = 64
    discount: Annotated[float, Field(gt=0, le=1)] = 0.98
    residual: Annotated[float, Field(ge=0)] = 1.0
    length_scale: Annotated[float, Field(gt=0)] | None = None
    signal_variance: Annotated[float, Field(gt=0)] = 1.0
    prior_mean: float = 0.0

    def begin(self, setting: Setting) -> None:
        """Draw frequencies, start at the prior weights. Raises InputError where there are no features."""
        self.setting = setting
        self._features = require_features(setting, "sparse_gp")
        replicates, _, dimension = self._features.shape
        scales = length_scales(self._features, self.length_scale)
        directions = _frequencies(setting.rng, replicates, dimension, self.frequencies)
        self._frequencies = directions / scales[:, None, None]
        size = 2 * self.frequencies
        self._weights = np.zeros((replicates, size))
        self._believed: Logits | None
        self._precision = np.tile(np.eye(size) / self.signal_variance, (replicates, 1, 1))
        self._derive()

    def logits(self, prompts: IntArray) -> Logits:
        """Predictive mean and variance, the residual's included."""
        if self._believed is None or not np.array_equal(prompts, self._asked):
            basis = self._basis(prompts)
            mean = self.prior_mean + (basis @ self._weights[..., None])[..., 0]
            self._believed = Logits(mean, lengths_squared(basis, self._inverse) + self.residual)
        return self._believed

    def update(self, outcomes: Outcomes) -> None:
        """Forget a little, then condition on one batch."""
        seen = outcomes.counts > 0
        prompts = np.where(seen, outcomes.prompts, 0)
        before, basis = self.logits(prompts), self._basis(prompts)
        value, precision = binomial_observation(before, outcomes.successes, outcomes.counts)
        weight = precision / (1 + precision * self.residual)
        keep = np.where(seen.any(axis=1), self.discount, 1.0)[:, None, None]
        weighted = np.sqrt(weight)[..., None] * basis
        self._precision *= keep
        self._precision += weighted.swapaxes(1, 2) @ weighted
        np.einsum("rdd->rd", self._precision)[:] += (1 - keep[..., 0]) / self.signal_variance
        self._inverse = inverse_factor(self._precision)
        pull = (weight * (value - before.mean))[:, None] @ basis @ self._inverse.swapaxes(1, 2)
        self._weights += (pull @ self._inverse)[:, 0]
        self._believed = None

    def _derive(self) -> None:
        """Start from the state alone: take its precision's factor, and keep no answer."""
        self._inverse = inverse_factor(self._precision)
        replicates, size = self._weights.shape
        self._asked = np.empty((replicates, 0), dtype=np.int64)
        self._answer = np.empty((replicates, 0, size))
        self._believed = None

    def _basis(self, prompts: IntArray) -> FloatArray:
        """Random features phi (R, B, D) of prompts (R, B); those asked for last are kept."""
        if not np.array_equal(prompts, self._asked):
            rows = np.arange(len(prompts))[:, None]
            angles = self._features[rows, prompts].astype(np.float64) @ self._frequencies
            self._asked, self._answer, self._believed = prompts.copy(), _cosines_and_sines(angles), None
            self._answer *= self.frequencies**-0.5
        return self._answer

    def state_dict(self) -> State:
        """Frequencies (R, d, D/2), weights (R, D) and their precision (R, D, D)."""
        return {
            "frequencies": self._frequencies.copy(),
            "weights": self._weights.copy(),
            "precision": self._precision.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the frequencies, the weights and their precision."""
        self._frequencies, self._weights, self._precision = (
            state[name].copy() for name in ("frequencies", "weights", "precision")
        )
        self._derive()


def _cosines_and_sines(angles: FloatArray) -> FloatArray:
    """Cosines and sines (..., 2 D) of angles (..., D), which are overwritten.

    With t = tan(angle / 2) they are (1 - t^2) / (1 + t^2) and 2 t / (1 + t^2): numpy's tangent is many times
    as fast as its cosine.
    """
    tangent = np.multiply(angles, 0.5, out=angles)
    np.tan(tangent, out=tangent)
    square = tangent * tangent
    both = np.empty((*angles.shape[:-1], 2 * angles.shape[-1]))
    cosine, sine = np.split(both, 2, axis=-1)
    np.subtract(1, square, out=cosine)
    square += 1
    cosine /= square
    np.divide(tangent, square, out=sine)
    sine *= 2
    return both


def _frequencies(rng: np.random.Generator, replicates: int, dimension: int, count: int) -> FloatArray:
    """Gaussian frequencies (R, d, count) of unit scale, orthogonal in blocks of at most d."""
    width = min(dimension, count)
    blocks = -(-count // width)
    directions, _ = np.linalg.qr(rng.standard_normal((replicates, blocks, dimension, width)))
    lengths = np.sqrt(rng.chisquare(dimension, (replicates, blocks, 1, width)))
    together = (directions * lengths).swapaxes(1, 2).reshape(replicates, dimension, blocks * width)
    return together[..., :count]
