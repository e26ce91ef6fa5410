"""HORA's hit utility (arXiv 2605.07114): maximise the expected number of prompts with a success.

The utility of n rollouts is 1 - (1-p)^n. HORA spends extra rollouts after observing some, under a
uniform prior; this is the one-shot rule at a predicted p, by default the Beta(1, 1) posterior's mean.
Its bounds are not known here; those of Knapsack RL are used. No code was found.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicted, best_counts
from rolloutbench.objectives import Hit
from rolloutbench.protocol import (
    Budget,
    IntArray,
    Provenance,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class HitUtility(Predicted):
    """Most prompts with at least one success, at the predicted success rates."""

    goal: ClassVar[str] = "most prompts solved"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2605.07114",
        note="the one-shot rule at a predicted rate; no code was found, and its bounds are not known",
    )

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) by predictor x objective x solver."""
        p = self.predictor.predict(prompts).mean
        return best_counts(Hit(), prompts, p, budget, *self.bounds(budget))
