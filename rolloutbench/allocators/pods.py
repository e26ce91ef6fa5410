"""PODS: policy optimisation with down-sampling (arXiv 2504.13818; code YixuanEvenXu/pods@187f43b,
trainer/maxvargrpo_trainer.py).

Generate n rollouts of each prompt and train on the m of them whose rewards have the greatest variance.
For rewards of 0 and 1 that is m/2 successes and m/2 failures, or as near to it as the group allows. For an
odd m, (m-1)/2 and (m+1)/2 successes are equally good; here the failures have one more. Advantages are
those of the subset, mean and standard deviation included.

m is n / `divide`, but not below 2. The code's runs have n = 64 and m = 16, or 128 and 32: divide = 4, the
default here. At 8 rollouts a prompt that leaves the smallest group that has both rewards.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.down_sampling import balanced
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import (
    Allocator,
    Budget,
    Groups,
    Plan,
    PromptStream,
    Provenance,
    Request,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class PODS(Allocator):
    """Equal groups, of which only the part with the greatest variance of rewards is trained on."""

    discards: ClassVar[tuple[str, ...]] = ("unselected",)
    goal: ClassVar[str] = "greatest variance kept"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2504.13818",
        code="YixuanEvenXu/pods@187f43b",
        file="trainer/maxvargrpo_trainer.py",
        licence="Apache-2.0",
        note="ties keep one failure more",
    )

    divide: Annotated[int, Field(ge=1)] = 4

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for one stage of equal groups, then keep the part with the greatest variance of rewards."""
        prompts = stream.draw(budget.prompts)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        successes, failures = balanced(outcomes, max(int(budget.group_size) // self.divide, 2))
        unselected = (outcomes.counts - successes - failures).sum(axis=1)
        weights = np.ones(prompts.shape)
        return Groups(prompts, successes, failures, weights, discarded={"unselected": unselected})
