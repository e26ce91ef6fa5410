"""Ridge regression of success rates on features: a baseline of VIP's Fig. 3 and Table 3.

The rate k/n is regressed, not its logit: that is what "Ridge" means there, rates of 0 and 1 need no
clipping, and each prompt of a batch counts once. The intercept is not penalised. Older steps count less
by `discount` a step. (VIP's released code regresses without a penalty and on its latest samples only.)
The variance of p is that of the residuals less the rollouts' own sampling variance, plus what is not
known of the coefficients, and never more than a variable in [0, 1] with that mean can have.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors.cholesky import inverse_factor, lengths_squared
from rolloutbench.predictors.features import require_features
from rolloutbench.protocol import Belief, FloatArray, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Ridge(Predictor):
    """Ridge regression of success rates on prompt features, with forgetting."""

    penalty: Annotated[float, Field(gt=0)] = 1.0
    discount: Annotated[float, Field(gt=0, le=1)] = 0.95

    def begin(self, setting: Setting) -> None:
        """Start afresh: nothing was seen. Raises InputError where there are no features."""
        self.setting = setting
        self._features = require_features(setting, "ridge")
        replicates, size = setting.replicates, self._features.shape[-1] + 1
        self._gram = np.zeros((replicates, size, size))
        self._moment = np.zeros((replicates, size))
        self._sums = np.zeros((replicates, 3))

    def predict(self, prompts: IntArray) -> Belief:
        """The regression clipped to [0, 1]; before any rollout mean 1/2 and variance 1/12."""
        x = self._inputs(prompts)
        penalty = np.full(x.shape[-1], self.penalty)
        penalty[-1] = 1e-9  # keeps the system regular before there are data
        system = self._gram + np.diag(penalty)
        inverse = inverse_factor(system)
        coefficients = inverse.swapaxes(1, 2) @ (inverse @ self._moment[..., None])
        mean = np.clip(0.5 + (x @ coefficients)[..., 0], 0.0, 1.0)
        squares, sampling, prompts_seen = (self._sums[:, [i]] for i in range(3))
        explained = (self._moment[:, None, :] @ coefficients)[..., 0]
        unseen = prompts_seen == 0
        seen = np.where(unseen, 1.0, prompts_seen)
        residual = np.maximum(squares - explained, 0.0) / seen
        variance = np.maximum(residual - sampling / seen, 0.0) + residual * lengths_squared(x, inverse)
        return Belief(mean, np.where(unseen, 1 / 12, np.minimum(variance, mean * (1 - mean))))

    def update(self, outcomes: Outcomes) -> None:
        """Add one data point for each prompt that got rollouts, after discounting the older ones."""
        seen = outcomes.counts > 0
        n = np.maximum(outcomes.counts, 1)
        rate = outcomes.successes / n
        x = self._inputs(np.where(seen, outcomes.prompts, 0)) * seen[..., None]
        y = (rate - 0.5) * seen
        # r(1-r)/(n-1) is an unbiased estimate of the sampling variance p(1-p)/n.
        sampling = np.where(n > 1, rate * (1 - rate) / np.maximum(n - 1, 1), 0.0)
        sums = np.stack([(y**2).sum(axis=1), (sampling * seen).sum(axis=1), seen.sum(axis=1)], axis=1)
        keep = np.where(seen.any(axis=1), self.discount, 1.0)
        self._gram = keep[:, None, None] * self._gram + x.swapaxes(1, 2) @ x
        self._moment = keep[:, None] * self._moment + (y[:, None, :] @ x)[:, 0]
        self._sums = keep[:, None] * self._sums + sums

    def _inputs(self, prompts: IntArray) -> FloatArray:
        """Inputs of the regression: features and a 1 (R, B, d + 1)."""
        rows = np.arange(len(prompts))[:, None]
        x = self._features[rows, prompts].astype(np.float64)
        return np.concatenate([x, np.ones((*prompts.shape, 1))], axis=-1)

    def state_dict(self) -> State:
        """Discounted sums: of x x' (R, d+1, d+1), of x y, and of y^2, sampling variance and prompts."""
        return {"gram": self._gram.copy(), "moment": self._moment.copy(), "sums": self._sums.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the discounted sums."""
        self._gram, self._moment, self._sums = (state[name].copy() for name in ("gram", "moment", "sums"))
