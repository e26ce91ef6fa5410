"""An exponential moving average of each prompt's success rates.

CoBA-RL and Rollout-GDRO keep such histories. (The "moving average" of VIP's Fig. 3 is
something else, one mean over all prompts of a window: `global_mean`.)
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Belief, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class MovingAverage(Predictor):
    """Moving average of each prompt's success rates; a fixed value before its first visit."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.5
    unseen: Annotated[float, Field(ge=0, le=1)] = 0.5

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt has been seen."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._rate = np.full(shape, np.nan)
        self._trials = np.zeros(shape)

    def predict(self, prompts: IntArray) -> Belief:
        """The moving average, with the binomial variance at as many rollouts as it effectively holds."""
        rows = np.arange(len(prompts))[:, None]
        rate, trials = self._rate[rows, prompts], self._trials[rows, prompts]
        seen = trials > 0
        mean = np.where(seen, rate, self.unseen)
        return Belief(mean, np.where(seen, mean * (1 - mean) / np.maximum(trials, 1), 1 / 12))

    def update(self, outcomes: Outcomes) -> None:
        """Set rate <- decay * rate + (1 - decay) * k/n; the first visit sets it to k/n."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        n = outcomes.counts[rows, columns]
        rate = outcomes.successes[rows, columns] / n
        old, trials = self._rate[visited], self._trials[visited]
        first = trials == 0
        self._rate[visited] = np.where(first, rate, self.decay * old + (1 - self.decay) * rate)
        # Var = decay^2 Var_old + (1 - decay)^2 pq/n, read as pq / trials.
        spread = self.decay**2 / np.maximum(trials, 1) + (1 - self.decay) ** 2 / n
        self._trials[visited] = np.where(first, n, 1 / spread)

    def state_dict(self) -> State:
        """Moving averages and effective trials (R, Q)."""
        return {"rate": self._rate.copy(), "trials": self._trials.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the moving averages and effective trials."""
        self._rate, self._trials = state["rate"].copy(), state["trials"].copy()
