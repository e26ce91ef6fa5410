"""A Gaussian process in random Fourier features: constant cost per step, however large the pool is.

The RBF kernel of `gp` is the expectation of phi(x) . phi(y) over features phi = (cos w.x, sin w.x) /
sqrt(D/2) with Gaussian frequencies w (Rahimi & Recht, 2007); orthogonal frequencies bring it with less
error (Yu et al., arXiv 1610.09072). So logits are phi . weights + a residual of each prompt's own, and
learning is recursive Bayesian linear regression on D weights, with the binomial noise of `gp`. At each
step the covariance P of the weights forgets: P^-1 <- discount P^-1 + (1 - discount) P_0^-1. Features
are computed for the batch alone; nothing has the size of the pool.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors.features import length_scales, needed_features
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
        """Draw frequencies; weights at the prior. Raises InputError where there are no features."""
        self.setting = setting
        self._features = needed_features(setting, "sparse_gp")
        replicates, _, dimension = self._features.shape
        scales = length_scales(self._features, self.length_scale)
        directions = _frequencies(setting.rng, replicates, dimension, self.frequencies)
        self._frequencies = directions / scales[:, None, None]
        size = 2 * self.frequencies
        self._weights = np.zeros((replicates, size))
        self._covariance = np.tile(self.signal_variance * np.eye(size), (replicates, 1, 1))

    def logits(self, prompts: IntArray) -> Logits:
        """Predictive mean and variance, the residual's included."""
        return self._logits(self._basis(prompts))

    def update(self, outcomes: Outcomes) -> None:
        """Forget a little, then condition on one batch."""
        seen = outcomes.counts > 0
        basis = self._basis(np.where(seen, outcomes.prompts, 0))
        before = self._logits(basis)
        value, precision = binomial_observation(before, outcomes.successes, outcomes.counts)
        weight = precision / (1 + precision * self.residual)
        stepped = np.asarray(seen.any(axis=1))[:, None, None]
        keep = np.where(stepped, self.discount, 1.0)
        weighted = (weight[..., None] * basis).swapaxes(1, 2)
        identity = np.eye(basis.shape[-1])
        gained = weighted @ basis + (1 - keep) / self.signal_variance * identity
        covariance = np.linalg.solve(keep * identity + self._covariance @ gained, self._covariance)
        symmetric = (covariance + covariance.swapaxes(1, 2)) / 2
        self._covariance = np.where(stepped, symmetric, self._covariance)
        self._weights += (symmetric @ (weighted @ (value - before.mean)[..., None]))[..., 0]

    def _basis(self, prompts: IntArray) -> FloatArray:
        """phi (R, B, D) of prompts (R, B)."""
        rows = np.arange(len(prompts))[:, None]
        angles = self._features[rows, prompts].astype(np.float64) @ self._frequencies
        basis: FloatArray = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
        basis *= self.frequencies**-0.5
        return basis

    def _logits(self, basis: FloatArray) -> Logits:
        mean = self.prior_mean + (basis @ self._weights[..., None])[..., 0]
        explained = np.einsum("rbd,rbd->rb", basis @ self._covariance, basis)
        return Logits(mean, np.maximum(explained, 0.0) + self.residual)

    def state_dict(self) -> State:
        """Frequencies (R, d, D/2), weights (R, D) and their covariance (R, D, D)."""
        return {
            "frequencies": self._frequencies.copy(),
            "weights": self._weights.copy(),
            "covariance": self._covariance.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        self._frequencies, self._weights, self._covariance = (
            state[name].copy() for name in ("frequencies", "weights", "covariance")
        )


def _frequencies(rng: np.random.Generator, replicates: int, dimension: int, count: int) -> FloatArray:
    """Gaussian frequencies (R, d, count) of unit scale, orthogonal in blocks of at most d."""
    width = min(dimension, count)
    blocks = -(-count // width)
    directions, _ = np.linalg.qr(rng.standard_normal((replicates, blocks, dimension, width)))
    lengths = np.sqrt(rng.chisquare(dimension, (replicates, blocks, 1, width)))
    together = (directions * lengths).swapaxes(1, 2).reshape(replicates, dimension, blocks * width)
    return together[..., :count]
