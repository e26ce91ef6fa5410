"""MoPPS: model predictive prompt selection (arXiv 2507.04632; code thu-rllab/MoPPS@a883f51).

Each prompt has a Beta posterior of its success probability. Of a larger batch of candidates, those whose
Thompson sample lies nearest to the target get rollouts, all the same number; the others cost nothing.
After the step alpha <- d alpha + (1-d) alpha_0 + k and beta <- d beta + (1-d) beta_0 + (n-k).

From the code: target 1/2, prior Beta(1, 1), d = 1 for MATH and 0.5 for Countdown and Geometry
(`predictor=beta[discount=0.5]`). The code's other mode, a band [.3, .7] on the sample, is not here, nor
is its slip of precedence that sets alpha to 8 for groups of 1. The number of candidates was not found:
4 for each place, as in PCL (arXiv 2510.01135). Any predictor may take the place of the posterior: the
sample is from the Beta distribution with its mean and variance.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicting
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import (
    Belief,
    Budget,
    FloatArray,
    Groups,
    Plan,
    PromptStream,
    Request,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class MoPPS(Predicting):
    """Equal groups for the candidates whose sampled success probability is nearest to one half."""

    one_shot: ClassVar[bool] = True

    candidates: Annotated[int, Field(ge=1)] = 4
    target: Annotated[float, Field(ge=0, le=1)] = 0.5

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Draw candidates, choose among them, one stage."""
        candidates = stream.draw(self.candidates * budget.prompts)
        sampled = self._thompson(self.predictor.predict(candidates))
        distance = np.where(candidates >= 0, np.abs(sampled - self.target), np.inf)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, : budget.prompts]
        prompts = np.take_along_axis(candidates, nearest, axis=1)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        return Groups.all_of(outcomes)

    def _thompson(self, belief: Belief) -> FloatArray:
        """A sample of the Beta distribution with this mean and variance; the mean where it has none."""
        mean, spread = belief.mean, belief.mean * (1 - belief.mean)
        proper = (belief.variance > 0) & (belief.variance < spread)
        total = np.divide(spread, belief.variance, out=np.full(mean.shape, 2.0), where=proper) - 1
        shape = np.where(proper, mean, 0.5)
        sampled = self.setting.rng.beta(shape * total, (1 - shape) * total)
        return np.where(proper, sampled, mean)
