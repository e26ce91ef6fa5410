"""CoBA-RL (arXiv 2602.03048): maximise sum (1 - exp(-n p(1-p)/tau)) BetaPDF(p; alpha, beta).

alpha follows the batch failure rate: alpha = clip(alpha_min + slope * F, alpha_min, alpha_max) and
beta = kappa - alpha, where F is the moving average over `window` steps of the batch failure rate, put
through sigmoid(10 (F - 0.5)) when it is at most one half. Many failures move the budget to easy prompts.

From the paper: bounds 2 and 128, kappa = 11. Not given there, so chosen here: tau = 1, window = 10,
and alpha_min = 1.5, slope = 8, alpha_max = 9.5, with which the alphas it reports (7.26, later 2.54)
belong to failure rates of 0.72 and 0.31. It does not say either how p is had: here a moving average.
No code was released.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import special

from rolloutbench.allocators.one_shot import Predicted, best_counts
from rolloutbench.objectives import Saturating, beta_density
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    Budget,
    FloatArray,
    InputError,
    IntArray,
    Outcomes,
    Provenance,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class CoBA(Predicted):
    """Most saturating value under a Beta density that moves with the batch failure rate."""

    goal: ClassVar[str] = "saturating value"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2602.03048",
        note="no code was released: tau, window, slope and the bounds of alpha are guesses",
    )

    predictor: PredictorSpec = "moving_average"  # type: ignore[assignment]
    tau: Annotated[float, Field(gt=0)] = 1.0
    kappa: Annotated[float, Field(gt=2)] = 11.0
    alpha_min: Annotated[float, Field(ge=1)] = 1.5
    alpha_max: Annotated[float, Field(ge=1)] = 9.5
    slope: Annotated[float, Field(ge=0)] = 8.0
    window: Annotated[int, Field(ge=1)] = 10

    def __post_init__(self) -> None:
        """Raise InputError unless alpha and beta = kappa - alpha always stay at 1 or above."""
        if not self.alpha_min <= self.alpha_max <= self.kappa - 1:
            raise InputError(
                f"alpha_min={self.alpha_min}, alpha_max={self.alpha_max}, kappa={self.kappa}: "
                "expected alpha_min <= alpha_max <= kappa - 1"
            )

    def begin(self, setting: Setting) -> None:
        """Start afresh: no failure rate has been seen."""
        super().begin(setting)
        self._failures = np.full((self.window, setting.replicates), np.nan)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) by predictor x objective x solver, weighted by the Beta density."""
        p = self.predictor.predict(prompts).mean
        alpha = self._alpha()[:, None]
        density = beta_density(p, alpha, self.kappa - alpha)
        return best_counts(Saturating(self.tau), prompts, p, budget, *self.bounds(budget), weights=density)

    def observe(self, outcomes: Outcomes) -> None:
        """Take in one more batch failure rate, after the predictor has learned."""
        super().observe(outcomes)
        counts = outcomes.counts.sum(axis=1)
        latest = np.where(counts > 0, 1 - outcomes.successes.sum(axis=1) / np.maximum(counts, 1), np.nan)
        self._failures = np.vstack([self._failures[1:], latest])

    def _alpha(self) -> FloatArray:
        """The density's alpha (R,); before the first step the failure rate is taken to be one half."""
        seen = ~np.isnan(self._failures)
        total = np.where(seen, self._failures, 0.0).sum(axis=0)
        mean = np.where(seen.any(axis=0), total / np.maximum(seen.sum(axis=0), 1), 0.5)
        return self.alpha(mean)

    def alpha(self, failures: FloatArray) -> FloatArray:
        """The density's alpha at batch failure rates of any shape."""
        moved = np.where(failures > 0.5, failures, special.expit(10 * (failures - 0.5)))
        return np.clip(self.alpha_min + self.slope * moved, self.alpha_min, self.alpha_max)

    def state_dict(self) -> State:
        """What the predictor learned, and the window of failure rates."""
        return {**super().state_dict(), "failures": self._failures.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the predictor and the window of failure rates."""
        super().load_state_dict(state)
        self._failures = state["failures"].copy()
