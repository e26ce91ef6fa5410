"""VIP's Gaussian process over prompts (arXiv 2602.01601, p. 6-7 and Algorithm 1, p. 30), with its noise.

Logits g_q are Gaussian with mean m and an RBF kernel K of the prompts' features, of unit variance and
with the median distance as length scale. After a batch B with observations y, every mean moves by
K_qB (K_BB + N)^-1 (y - m_B).

Where this differs from the paper by default; its own choice is in brackets. N is the binomial noise of
each prompt's rollouts (`noise=0`: y = logit of k/n clipped to eps, and m_B = y exactly, so that 4
rollouts are trusted as much as 32), linearised at the mode of each prompt's own posterior, not of the
batch's joint one. Variances are carried from step to step, with `drift` added as the policy changes
(`drift=1`: the covariance restarts at K in each step). Carrying all covariances would take Q^2 numbers;
carried are the variances v, and correlations stay the kernel's: the covariance at a step is
sqrt(v) K sqrt(v). And the belief's mean is E sigmoid(g) (`belief=plug_in`: sigmoid(m)).

The paper states no eps. Its released code (HieuNT91/VIP@bcc8a25,
src/vip/success_rate_prediction/gaussian_process.py) has eps = 1e-6, a fixed length scale (0.27, 0.4 or
0.5), prior mean -5 or -1 instead of 0, and jitter 1e-4. Memory is O(Q d), with kernel blocks of a fixed
size; one update costs O(B^3 + Q B d), and O(Q B^2) more for the variances, unless they restart anyway. The
kernel between pool and batch is computed in the precision of the features, the batch's system in double.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import special

from rolloutbench.predictors.cholesky import inverse_factor, lengths_squared
from rolloutbench.predictors.features import length_scales, require_features
from rolloutbench.predictors.logit import (
    LogitPredictor,
    Logits,
    binomial_observation,
    clipped_logit,
    logistic_normal,
)
from rolloutbench.protocol import Belief, FloatArray, IntArray, Outcomes, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS

BLOCK = 2**19
"""Number of kernel entries computed at a time."""


@dataclass(config=PARAMETERS)
class GP(LogitPredictor):
    """Gaussian process on prompt features (VIP's predictor), with binomial noise unless `noise` is given."""

    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2602.01601",
        code="HieuNT91/VIP@bcc8a25",
        file="src/vip/success_rate_prediction/gaussian_process.py",
        licence="Apache-2.0",
        note="noise, drift and the belief's mean are ours; noise=0,drift=1,belief=plug_in is the paper",
    )

    noise: Annotated[float, Field(ge=0)] | None = None
    drift: Annotated[float, Field(ge=0)] = 0.01
    belief: Literal["expected", "plug_in"] = "expected"
    length_scale: Annotated[float, Field(gt=0)] | None = None
    signal_variance: Annotated[float, Field(gt=0)] = 1.0
    prior_mean: float = 0.0
    eps: Annotated[float, Field(gt=0, lt=0.5)] = 1e-6
    jitter: Annotated[float, Field(gt=0)] = 1e-6

    def begin(self, setting: Setting) -> None:
        """Start with every logit at the prior. Raises InputError where there are no features."""
        self.setting = setting
        features = require_features(setting, "gp")
        scales = length_scales(features, self.length_scale)[:, None, None].astype(features.dtype)
        points = (features - features.mean(axis=1, keepdims=True)) / scales
        # exp(-|x - y|^2 / 2) is the exponential of one product: (x, -|x|^2/2, 1) . (y, 1, -|y|^2/2).
        halves = -(points**2).sum(axis=-1, keepdims=True) / 2
        self._points = np.concatenate([points, halves, np.ones_like(halves)], axis=-1)
        shape = (setting.replicates, setting.pool_size)
        self._mean = np.full(shape, self.prior_mean)
        self._variance = np.full(shape, self.signal_variance)

    def logits(self, prompts: IntArray) -> Logits:
        """Posterior mean and variance of logits (R, B)."""
        rows = np.arange(len(prompts))[:, None]
        return Logits(self._mean[rows, prompts], self._variance[rows, prompts])

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance of p; with `plug_in` the mean is sigmoid(m)."""
        logits = self.logits(prompts)
        expected = logistic_normal(logits)
        if self.belief == "expected":
            return expected
        return Belief(special.expit(logits.mean), expected.variance)

    def update(self, outcomes: Outcomes) -> None:
        """Condition on one batch, then let the policy drift.

        In units of each logit's carried standard deviation the prior covariance is the kernel itself,
        and the noise is N / v.
        """
        seen = outcomes.counts > 0
        if not seen.any():
            return
        rows = np.arange(len(seen))[:, None]
        prompts = np.where(seen, outcomes.prompts, 0)
        before = self.logits(prompts)
        target, noise = self._observed(before, outcomes)
        std = np.sqrt(before.variance)
        points = self._points[rows, prompts]
        kernel = _kernel(points.astype(np.float64), points.astype(np.float64))
        kernel *= seen[:, :, None] & seen[:, None, :]
        np.einsum("rbb->rb", kernel)[:] += np.where(seen, noise / before.variance + self.jitter, 1.0)
        # inverse.T @ inverse is the inverse of kernel + noise; prompts without rollouts drop out of it.
        inverse = inverse_factor(kernel) * seen[:, None, :]
        residual = (target - before.mean) / std
        pull = inverse.swapaxes(1, 2) @ (inverse @ residual[..., None])
        restarts = self.drift >= self.signal_variance
        pull, inverse = pull.astype(points.dtype), inverse.astype(points.dtype)
        for part in self._parts(seen.size):
            cross = _kernel(self._points[:, part], points)
            variance = self._variance[:, part]
            self._mean[:, part] += np.sqrt(variance) * (cross @ pull)[..., 0]
            if not restarts:
                # What is left is at least rounding: an interpolated logit has no variance.
                variance *= np.maximum(1 - lengths_squared(cross, inverse), 1e-9)
        if self.noise == 0:
            places = np.nonzero(seen)
            self._mean[places[0], prompts[places]] = target[places]
        if not restarts:
            stepped = seen.any(axis=1)
            drifted = np.minimum(self._variance[stepped] + self.drift, self.signal_variance)
            self._variance[stepped] = drifted

    def _observed(self, before: Logits, outcomes: Outcomes) -> tuple[FloatArray, FloatArray]:
        """Observed logits and the variance of their noise (R, B)."""
        if self.noise is None:
            value, precision = binomial_observation(before, outcomes.successes, outcomes.counts)
            return value, 1 / np.where(precision > 0, precision, 1.0)
        value = clipped_logit(outcomes.successes, outcomes.counts, self.eps)
        return value, np.full(value.shape, self.noise)

    def _parts(self, batch: int) -> Iterator[slice]:
        """The pool in parts whose kernel with the batches of all replicates is no larger than a block."""
        size = max(BLOCK // batch, 64)
        for start in range(0, self._mean.shape[1], size):
            yield slice(start, start + size)

    def state_dict(self) -> State:
        """Posterior means and variances of the logits (R, Q)."""
        return {"mean": self._mean.copy(), "variance": self._variance.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the means and variances of the logits."""
        self._mean, self._variance = state["mean"].copy(), state["variance"].copy()


def _kernel(points: FloatArray, others: FloatArray) -> FloatArray:
    """Kernel exp(-|x - y|^2 / 2), (R, P, B), of points (R, P, d + 2) and others (R, B, d + 2)."""
    swapped = np.concatenate([others[..., :-2], others[..., :-3:-1]], axis=-1)
    exponent = points @ swapped.swapaxes(1, 2)
    kernel: FloatArray = np.exp(exponent, out=exponent)
    return kernel
