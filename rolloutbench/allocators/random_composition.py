"""A control: the budget split at random, every composition equally likely."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.protocol import MOST_ROLLOUTS, Budget, InputError, IntArray
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class RandomComposition(OneShot):
    """Control: a random composition of the budget, each prompt getting at least `lower` rollouts."""

    goal: ClassVar[str] = "chance alone"

    control: ClassVar[bool] = True

    lower: Annotated[int, Field(ge=0, le=MOST_ROLLOUTS)] | None = None

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B): `lower` each, the estimator's minimum by default; the rest Dirichlet-multinomial."""
        lower = self.setting.estimator.minimum if self.lower is None else self.lower
        present = prompts >= 0
        floor = lower * present.sum(axis=1)
        if (floor > budget.rollouts).any():
            raise InputError(f"budget={budget.rollouts} is below lower={lower} for {budget.prompts} prompts")
        shares = np.where(present, self.setting.rng.standard_exponential(prompts.shape), 0.0)
        total = shares.sum(axis=1, keepdims=True)
        rest = np.where(total[:, 0] > 0, budget.rollouts - floor, 0)
        shares = np.divide(shares, total, out=np.full(shares.shape, 1 / shares.shape[1]), where=total > 0)
        return lower * present + self.setting.rng.multinomial(rest, shares)
