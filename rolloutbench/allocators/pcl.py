"""PCL: prompt curriculum learning (arXiv 2510.01135).

Draw k B candidates; a value model, one forward pass of the prompt alone, predicts the mean reward V; the B
candidates with the least |V - tau| get equal groups; V then learns from their mean rewards. k = 4, tau = 1/2.

The authors' code was not found. Their V is a second language model, trained by (V - mean reward)^2 on the
step's rollouts. Here it is a regression on prompt features, `ridge`, which reads the prompt alone too; any
predictor may take its place. Unlike MoPPS it takes the prediction at its word, without sampling.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicting
from rolloutbench.allocators.selection import nearest
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import Budget, Groups, Plan, PromptStream, Provenance, Request
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class PCL(Predicting):
    """Equal groups for the candidates whose predicted success probability is nearest to one half."""

    one_shot: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    goal: ClassVar[str] = "success rates near one half"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2510.01135", note="a regression on features in place of a second language model"
    )

    predictor: PredictorSpec = "ridge"  # type: ignore[assignment]
    candidates: Annotated[int, Field(ge=1)] = 4
    target: Annotated[float, Field(ge=0, le=1)] = 0.5

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Draw candidates, choose among them, and ask for one stage of equal groups."""
        candidates = stream.draw(self.candidates * budget.prompts)
        distance = np.abs(self.predictor.predict(candidates).mean - self.target)
        distance = np.where(candidates >= 0, distance, np.inf)
        prompts = np.take_along_axis(candidates, nearest(distance, budget.prompts), axis=1)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        return Groups.all_of(outcomes)
