"""The success rate at the last visit: the predictor of Knapsack RL (arXiv 2509.25849).

Its code (liziniu/KnapsackRL@ca5d5f5, verl/utils/dataset/rl_dataset.py) takes the last visit's rate where that
visit had at least 16 rollouts, and the mean of the newest 16 rewards otherwise: `window=16`. The paper speaks
of the last epoch alone, which is `window=1`, the default.

A visit is known here by its two numbers. Where only the newest rewards of an older visit are in the window,
its successes are taken to be spread evenly over it, so that no chance enters.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import (
    Belief,
    IntArray,
    Outcomes,
    Predictor,
    Provenance,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS

LONGEST = 32
"""Greatest `window`: that many rewards of a prompt are kept, as the bits of one whole number."""


@dataclass(config=PARAMETERS)
class LastEpoch(Predictor):
    """Each prompt's success rate at its last visit, or of its newest `window` rewards after a smaller one."""

    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2509.25849",
        code="liziniu/KnapsackRL@ca5d5f5",
        file="verl/utils/dataset/rl_dataset.py",
        licence="Apache-2.0",
        note="window=16 is the code; an older visit's successes are taken to be spread evenly over it",
    )

    window: Annotated[int, Field(ge=1, le=LONGEST)] = 1
    unseen: Annotated[float, Field(ge=0, le=1)] = 0.5

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt has been seen."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._rate, self._trials = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        # Bit j is the j-th newest reward.
        self._newest, self._held = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)

    def predict(self, prompts: IntArray) -> Belief:
        """The rate (R, B), with the binomial variance at as many rollouts as it is the mean of."""
        rows = np.arange(len(prompts))[:, None]
        trials = self._trials[rows, prompts]
        mean = np.where(trials > 0, self._rate[rows, prompts], self.unseen)
        return Belief(mean, np.where(trials > 0, mean * (1 - mean) / np.maximum(trials, 1), 1 / 12))

    def update(self, outcomes: Outcomes) -> None:
        """Take the rate of a visit of at least `window` rollouts, else that of the newest rewards."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        n, k = outcomes.counts[rows, columns], outcomes.successes[rows, columns]
        added = np.minimum(n, self.window)
        older = self._newest[visited] & ((1 << (self.window - added)) - 1)
        bits = (older << added) | _spread(n, k, self.window)
        held = np.minimum(self._held[visited] + n, self.window)
        self._newest[visited], self._held[visited] = bits, held
        whole = n >= self.window
        self._trials[visited] = np.where(whole, n, held)
        self._rate[visited] = np.where(whole, k, np.bitwise_count(bits)) / self._trials[visited]

    def state_dict(self) -> State:
        """Rates, their numbers of rewards, and the newest rewards as bits with their number, all (R, Q)."""
        return {
            "rate": self._rate.copy(),
            "trials": self._trials.copy(),
            "newest": self._newest.copy(),
            "held": self._held.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the rates and the newest rewards."""
        self._rate, self._trials = state["rate"].copy(), state["trials"].copy()
        self._newest, self._held = state["newest"].copy(), state["held"].copy()


def _spread(n: IntArray, k: IntArray, window: int) -> IntArray:
    """The newest min(n, window) rewards of visits (V,) of n rollouts with k successes, as bits, newest first.

    The newest m of them hold round(m k / n) successes.
    """
    m = np.arange(window + 1)
    among = np.where(m <= n[:, None], (2 * m * k[:, None] + n[:, None]) // (2 * n[:, None]), k[:, None])
    bits: IntArray = (np.diff(among, axis=1) << m[:-1]).sum(axis=1)
    return bits
