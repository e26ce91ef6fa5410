"""A Kalman filter on psi = arcsin sqrt p, as in ARCUS (no arXiv id was found; from a summary).

The arcsine of the root stabilises the variance: k of n successes give the observation
arcsin sqrt((k + 3/8) / (n + 3/4)) with variance 1 / (4 n + 2) (Anscombe, 1948), whatever p is. Groups of
equal rewards observe 0 or pi/2 itself, with variance 1 / (2 n). Between two visits psi is a random walk
whose variance grows by `drift`. The summary gives no drift and no prior. Here .002, near the best on the
record of a GRPO run over 1,209 prompts and 47 epochs (ypwang61/One-Shot-RLVR@21ed529), and the mean and
variance of psi where p is uniform, pi/4 and pi^2/16 - 1/2.

The belief about p = sin^2 psi is exact for a Gaussian psi: E p = (1 - c) / 2 with c = cos(2 m) exp(-2 v), and
Var p = ((1 + cos(4 m) exp(-8 v)) / 2 - c^2) / 4.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Belief, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS

PRIOR_MEAN, PRIOR_VARIANCE = np.pi / 4, np.pi**2 / 16 - 1 / 2


@dataclass(config=PARAMETERS)
class Arcsine(Predictor):
    """Random walk of each prompt's arcsine of the root of p, filtered by its own outcomes."""

    drift: Annotated[float, Field(ge=0)] = 0.002

    def begin(self, setting: Setting) -> None:
        """Every prompt starts at the prior."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._mean, self._variance = np.full(shape, PRIOR_MEAN), np.full(shape, PRIOR_VARIANCE)

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance (R, B) of p = sin^2 psi at the next visit."""
        rows = np.arange(len(prompts))[:, None]
        mean, variance = self._mean[rows, prompts], self._variance[rows, prompts]
        c = np.cos(2 * mean) * np.exp(-2 * variance)
        spread = (1 + np.cos(4 * mean) * np.exp(-8 * variance)) / 2 - c**2
        return Belief((1 - c) / 2, np.maximum(spread, 0.0) / 4)

    def update(self, outcomes: Outcomes) -> None:
        """Filter one visit of each prompt that got rollouts, and let psi drift until the next."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        k, n = outcomes.successes[rows, columns], outcomes.counts[rows, columns]
        alike = (k == 0) | (k == n)
        observed = np.where(alike, np.pi / 2 * (k == n), np.arcsin(np.sqrt((k + 3 / 8) / (n + 3 / 4))))
        noise = np.where(alike, 1 / (2 * n), 1 / (4 * n + 2))
        mean, variance = self._mean[visited], self._variance[visited]
        gain = variance / (variance + noise)
        self._mean[visited] = mean + gain * (observed - mean)
        self._variance[visited] = (1 - gain) * variance + self.drift

    def state_dict(self) -> State:
        """Mean and variance (R, Q) of psi."""
        return {"mean": self._mean.copy(), "variance": self._variance.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore mean and variance of psi."""
        self._mean, self._variance = state["mean"].copy(), state["variance"].copy()
