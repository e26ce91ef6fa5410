"""The same number of rollouts for every prompt: GRPO, Dr. GRPO, RLOO and REINFORCE, by estimator."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.protocol import Budget, IntArray
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Uniform(OneShot):
    """Equal groups, the baseline; `divide` makes groups that many times smaller, a control on cost."""

    divide: Annotated[int, Field(ge=1)] = 1

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """budget / prompts each; what is left goes to the first prompts, one each."""
        return equal_counts(prompts, budget.rollouts // self.divide)


def equal_counts(prompts: IntArray, rollouts: int) -> IntArray:
    """Spread rollouts over the prompts that are there; the first ones take the remainder."""
    present = prompts >= 0
    each, rest = np.divmod(rollouts, np.maximum(present.sum(axis=1, keepdims=True), 1))
    return np.where(present, each + (np.cumsum(present, axis=1) <= rest), 0)
