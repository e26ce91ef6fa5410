"""MoPPS: model predictive prompt selection (arXiv 2507.04632; code thu-rllab/MoPPS@a883f51,
recipe/ours/mopps.py).

Each prompt has a Beta posterior of its success probability. Of a larger batch of candidates, those whose
Thompson sample lies nearest to the target get rollouts, all the same number; the others cost nothing.
After the step alpha <- d alpha + (1-d) alpha_0 + k and beta <- d beta + (1-d) beta_0 + (n-k).

From the code and its scripts: target 1/2, prior Beta(1, 1), d = 1 for MATH and 0.5
for Countdown and Geometry (`predictor=beta[discount=0.5]`), 16 candidates for each place for MATH and 8 for
Countdown and Geometry, at most the whole pool. `choice=band` is its other mode, called threshold there: a
random choice among the samples in [.3, .7], and where those are too few the ones nearest to the band too.

Not here: its slip of precedence that sets alpha to 8 for groups of 1, and its start from posteriors that were
rolled out beforehand. Any predictor may take the place of the posterior: the sample is from the Beta
distribution with its mean and variance.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicting
from rolloutbench.allocators.selection import nearest
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import (
    Belief,
    Budget,
    FloatArray,
    Groups,
    InputError,
    Plan,
    PromptStream,
    Provenance,
    Request,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class MoPPS(Predicting):
    """Equal groups for the candidates whose sampled success probability is nearest to one half."""

    one_shot: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("", "choice=band")
    goal: ClassVar[str] = "rates near 1/2"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2507.04632",
        code="thu-rllab/MoPPS@a883f51",
        file="recipe/ours/mopps.py",
        licence="Apache-2.0",
        note="without its slip that sets alpha to 8 for groups of one, and without rollouts beforehand",
    )

    candidates: Annotated[int, Field(ge=1)] = 16
    choice: Literal["nearest", "band"] = "nearest"
    target: Annotated[float, Field(ge=0, le=1)] = 0.5
    lowest: Annotated[float, Field(ge=0, le=1)] = 0.3
    highest: Annotated[float, Field(ge=0, le=1)] = 0.7

    def __post_init__(self) -> None:
        """Raise InputError where the band from `lowest` to `highest` is empty."""
        if self.lowest > self.highest:
            raise InputError(f"lowest={self.lowest} is above highest={self.highest}")

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Draw candidates, choose among them, and ask for one stage of equal groups."""
        candidates = stream.draw(self.candidates * budget.prompts)
        sampled = self._thompson(self.predictor.predict(candidates))
        distance = np.where(candidates >= 0, self.distance(sampled), np.inf)
        prompts = np.take_along_axis(candidates, nearest(distance, budget.prompts), axis=1)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        return Groups.all_of(outcomes)

    def distance(self, sampled: FloatArray) -> FloatArray:
        """How late each sample (R, B) is chosen: by its distance to the target, or to the band.

        Samples within the band come first, in random order.
        """
        if self.choice == "nearest":
            return np.abs(sampled - self.target)
        outside = np.maximum(self.lowest - sampled, sampled - self.highest)
        return np.where(outside > 0, outside, self.setting.rng.random(sampled.shape) - 1)

    def _thompson(self, belief: Belief) -> FloatArray:
        """A sample of the Beta distribution with this mean and variance; the mean where it has none."""
        mean, spread = belief.mean, belief.mean * (1 - belief.mean)
        proper = (belief.variance > 0) & (belief.variance < spread)
        total = np.divide(spread, belief.variance, out=np.full(mean.shape, 2.0), where=proper) - 1
        shape = np.where(proper, mean, 0.5)
        sampled = self.setting.rng.beta(shape * total, (1 - shape) * total)
        return np.where(proper, sampled, mean)
