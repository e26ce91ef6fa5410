"""Nearest neighbours: what a prompt's own rollouts say, and before them those of the prompts most like it.

Of the `memory` prompts visited last, the `k` nearest in Euclidean distance of features, the prompt itself
aside, give a prior: their pooled success rate, (sum of successes + 1) / (sum of rollouts + 2), worth
`strength` rollouts. The prompt's own rollouts are added to it. Everything forgets by `discount` at a visit.
Until somebody was visited the prior is 1/2.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors.features import require_features
from rolloutbench.protocol import Belief, FloatArray, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS

BLOCK = 2**18
"""Number of distances computed at a time."""


@dataclass(config=PARAMETERS)
class Neighbours(Predictor):
    """Pooled outcomes of the most similar prompts visited lately as a prior for each prompt's own."""

    k: Annotated[int, Field(ge=1)] = 16
    memory: Annotated[int, Field(ge=1)] = 512
    strength: Annotated[float, Field(gt=0)] = 4.0
    discount: Annotated[float, Field(ge=0, le=1)] = 0.9

    def begin(self, setting: Setting) -> None:
        """Start afresh: nobody was visited. Raises InputError where there are no features."""
        self.setting = setting
        self._features = require_features(setting, "neighbours")
        shape = (setting.replicates, setting.pool_size)
        self._counts, self._successes = np.zeros((2, *shape))
        self._visited = np.full((setting.replicates, 0), -1)

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance (R, B) of a Beta posterior: the neighbours' prior and the prompt's own."""
        rows = np.arange(len(prompts))[:, None]
        prior = self._prior(prompts)
        n, k = self._counts[rows, prompts], self._successes[rows, prompts]
        total = self.strength + n
        mean = (self.strength * prior + k) / total
        return Belief(mean, mean * (1 - mean) / (total + 1))

    def _prior(self, prompts: IntArray) -> FloatArray:
        """Pooled success rates (R, B) of the nearest of the prompts in memory."""
        rows = np.arange(len(prompts))[:, None]
        width = self._visited.shape[1]
        if width == 0 or prompts.shape[1] == 0:
            return np.full(prompts.shape, 0.5)
        there = self._visited >= 0
        known = self._features[rows, self._visited].astype(np.float64)
        centre = known.mean(axis=1, keepdims=True)
        known -= centre
        # |x - y|^2 without the |x|^2 that all of a prompt's distances have in common.
        squares = np.where(there, (known**2).sum(axis=-1), np.inf)[:, None]
        known *= -2
        place = np.full(self._counts.shape, -1)
        place[np.nonzero(there)[0], self._visited[there]] = np.nonzero(there)[1]
        own = np.where(prompts >= 0, place[rows, prompts], -1)
        evidence = np.stack([self._counts, self._successes], axis=-1)[rows, self._visited]
        k = min(self.k, width)
        prior = np.empty(prompts.shape)
        size = max(BLOCK // (len(prompts) * width), 1)
        for start in range(0, prompts.shape[1], size):
            part = slice(start, start + size)
            asked = self._features[rows, prompts[:, part]] - centre
            distances = asked @ known.swapaxes(1, 2)
            distances += squares
            own_rows, own_columns = np.nonzero(own[:, part] >= 0)
            distances[own_rows, own_columns, own[:, part][own_rows, own_columns]] = np.inf
            farthest = np.partition(distances, k - 1, axis=2)[..., k - 1 : k]
            near = distances <= np.minimum(farthest, np.finfo(np.float64).max)
            n, successes = np.moveaxis(near.astype(np.float64) @ evidence, -1, 0)
            prior[:, part] = (successes + 1) / (n + 2)
        return prior

    def update(self, outcomes: Outcomes) -> None:
        """Count one visit of each prompt that got rollouts, and put it in front of the memory."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        for known, came in ((self._counts, outcomes.counts), (self._successes, outcomes.successes)):
            known[visited] = self.discount * known[visited] + came[rows, columns]
        fresh = np.zeros(self._counts.shape, dtype=bool)
        fresh[visited] = True
        again = (self._visited >= 0) & fresh[np.arange(len(fresh))[:, None], self._visited]
        news = np.where(outcomes.counts > 0, outcomes.prompts, -1)
        together = np.concatenate([news, np.where(again, -1, self._visited)], axis=1)
        order = np.argsort(together < 0, axis=1, kind="stable")
        width = min(int((together >= 0).sum(axis=1).max(initial=0)), self.memory)
        self._visited = np.take_along_axis(together, order[:, :width], axis=1)

    def state_dict(self) -> State:
        """Discounted rollouts and successes (R, Q), and the prompts visited last (R, M), newest first."""
        return {
            "counts": self._counts.copy(),
            "successes": self._successes.copy(),
            "visited": self._visited.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore rollouts, successes, and the prompts visited last."""
        self._counts, self._successes, self._visited = (
            state[name].copy() for name in ("counts", "successes", "visited")
        )
