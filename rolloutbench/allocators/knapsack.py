"""Knapsack RL (arXiv 2509.25849): maximise sum [1 - p^n - (1-p)^n] p (1-p)^2 with 2 <= n <= 128.

p is the success rate of the previous epoch; prompts not seen yet share equally. Its code is not open.
The paper's fallback lies outside its objective: prompts with p of 0 or 1 are worth nothing and get the
lower bound, and what the others cannot take goes to those with p = 0 before those with p = 1.
"""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicted, best_counts
from rolloutbench.objectives import KnapsackValue
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import Budget, IntArray
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Knapsack(Predicted):
    """Most chance of a non-zero gradient, times information gain, at the last epoch's success rates."""

    predictor: PredictorSpec = "last_epoch"  # type: ignore[assignment]

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """predictor x objective x solver, with the fallback for solved prompts."""
        p = self.predictor.predict(prompts).mean
        lower, upper = self.bounds(budget)
        present = prompts >= 0
        solved = present & (p == 1)
        others = (present & ~solved).sum(axis=1)
        enough_without = others * upper + solved.sum(axis=1) * lower >= budget.rollouts
        most = np.where(solved & enough_without[:, None], lower, upper)
        return best_counts(KnapsackValue(), prompts, p, budget, lower, most)
