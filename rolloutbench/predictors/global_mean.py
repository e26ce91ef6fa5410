"""One mean over all rollouts of the latest steps: the "moving average" of VIP's Fig. 3.

Its released code predicts the same for every prompt (arXiv 2602.01601, p. 9): the mean over a window, of
two batches in the paper. A moving average of each prompt's own rates is `moving_average`.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Belief, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class GlobalMean(Predictor):
    """One success rate for every prompt: that of all rollouts of the last `window` steps."""

    window: Annotated[int, Field(ge=1)] = 2

    def begin(self, setting: Setting) -> None:
        """Start afresh: no rollouts have been seen."""
        self.setting = setting
        self._sums = np.zeros((setting.replicates, self.window, 4))

    def predict(self, prompts: IntArray) -> Belief:
        """Mean of p over rollouts, and its variance over prompts; 1/2 and 1/12 before any rollout.

        E p^2 is estimated by pairs of rollouts of the same prompt: sum k(k-1) / sum n(n-1).
        """
        n, k, n_pairs, k_pairs = self._sums.sum(axis=1).T[..., None]
        mean = np.where(n > 0, k / np.maximum(n, 1), 0.5)
        square = np.where(n_pairs > 0, k_pairs / np.maximum(n_pairs, 1), mean**2 + 1 / 12)
        variance = np.clip(square - mean**2, 0.0, mean * (1 - mean))
        return Belief(*(np.broadcast_to(value, prompts.shape).copy() for value in (mean, variance)))

    def update(self, outcomes: Outcomes) -> None:
        """Move the window by one step, in the replicates that have rollouts."""
        n, k = outcomes.counts, outcomes.successes
        latest = np.stack([a.sum(axis=1) for a in (n, k, n * (n - 1), k * (k - 1))], axis=-1)
        moved = np.concatenate([self._sums[:, 1:], latest[:, None]], axis=1)
        self._sums = np.where(latest[:, None, :1] > 0, moved, self._sums)

    def state_dict(self) -> State:
        """Sums of each step of the window: rollouts, successes and pairs of them, (R, window, 4)."""
        return {"sums": self._sums.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the sums of the window."""
        self._sums = state["sums"].copy()
